import PageWire
import Uring

/// Why a connection could not be made, or ended during set-up. One line each: what is wrong, and how to mend it.
public enum StreamError: Error, Sendable, Hashable {
    case badAddress(text: String, reason: String)
    case cannotResolve(host: String, reason: String)
    case pathTooLong(path: String)
    case notASocket(path: String)
    case addressInUse(address: String)
    case cannotListen(address: String, errno: Int32)
    case cannotConnect(address: String, errno: Int32)
    /// No connection, or no whole frame, within the time given.
    case timedOut(peer: String)
    /// The peer ended the stream between two frames.
    case endOfStream(peer: String)
    /// The peer ended the stream inside a frame.
    case truncated(peer: String)
    case connectionFailed(peer: String, errno: Int32)
    /// The frame's payload does not fit in the buffer given.
    case payloadTooLarge(bytes: Int, capacityBytes: Int)
    case refused(FrameError)
    case socketFailed(errno: Int32)
    /// A descriptor that was given as a connection and is none.
    case notALane(descriptor: Int32, reason: String)
    /// More connections than a session has lanes, or none.
    case badCount(sockets: Int)
    case ring(UringError)
}

extension StreamError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .badAddress(let text, let reason):
            "\"\(text)\" is not an address: \(reason); write HOST:PORT, [IPV6]:PORT or unix:PATH"
        case .cannotResolve(let host, let reason):
            "the host \"\(host)\" cannot be resolved: \(reason); check the name, or give an IP address"
        case .pathTooLong(let path):
            "the socket path \(path) is too long: at most 107 bytes are allowed; choose a shorter directory"
        case .notASocket(let path):
            "\(path) exists and is not a socket; choose another path, or remove the file"
        case .addressInUse(let address):
            "\(address) is in use by another program; stop it or choose another address (port 0 picks a free port)"
        case .cannotListen(let address, let number):
            "cannot listen on \(address): \(errorText(number)); check that the address belongs to this host and that this user may use it"
        case .cannotConnect(let address, let number):
            "cannot connect to \(address): \(errorText(number)); check that the peer is running, listens there, and that no firewall is between"
        case .timedOut(let peer):
            "\(peer) did not answer in time; check that the peer is running and reachable"
        case .endOfStream(let peer):
            "\(peer) closed the connection; see the peer's log for the reason"
        case .truncated(let peer):
            "\(peer) closed the connection in the middle of a frame; see the peer's log for the reason"
        case .connectionFailed(let peer, let number):
            "the connection to \(peer) failed: \(errorText(number)); see the peer's log, and check the network between"
        case .payloadTooLarge(let bytes, let capacity):
            "the peer sent a payload of \(bytes) bytes where at most \(capacity) are expected; it is not PageFerry, or another version"
        case .refused(let error): error.description
        case .socketFailed(let number):
            "a socket could not be made or set up: \(errorText(number)); check the limit of open files (ulimit -n)"
        case .notALane(let descriptor, let reason):
            "descriptor \(descriptor) cannot be a lane: \(reason); give connected stream sockets"
        case .badCount(let sockets):
            "\(sockets) sockets were given; a session has 1 to \(StreamLanes.most) lanes"
        case .ring(let error): error.description
        }
    }
}
