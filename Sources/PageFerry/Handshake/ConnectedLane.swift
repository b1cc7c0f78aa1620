import Glibc
import PageWire
import Verbs
import VerbsTransport

/// One connected lane of a session, whatever carries it; owned by whoever holds it.
enum ConnectedLane: Sendable {
    /// A connected socket.
    case stream(Int32)
    case verbs(VerbsConnection)

    /// Ends the connection. A verbs connection ends with its last reference.
    func close() {
        if case .stream(let socket) = self { Glibc.close(socket) }
    }
}

extension [ConnectedLane] {
    /// The sockets, when all lanes are streams.
    var sockets: [Int32]? {
        var sockets: [Int32] = []
        for lane in self {
            guard case .stream(let socket) = lane else { return nil }
            sockets.append(socket)
        }
        return sockets
    }

    /// The connections, when all lanes are verbs.
    var verbs: [VerbsConnection]? {
        var connections: [VerbsConnection] = []
        for lane in self {
            guard case .verbs(let connection) = lane else { return nil }
            connections.append(connection)
        }
        return connections
    }
}

/// The set-up channel of either transport.
struct LaneChannel: ~Copyable, SetupChannel {
    // One of the two is there.
    private var stream: StreamSetupChannel?
    private var verbs: VerbsSetupChannel?
    let peerDescription: String

    init(_ channel: consuming StreamSetupChannel) {
        peerDescription = channel.peerDescription
        stream = consume channel
        verbs = nil
    }

    init(_ channel: VerbsSetupChannel) {
        peerDescription = channel.peerDescription
        stream = nil
        verbs = channel
    }

    /// A channel over a lane that was connected before.
    init(_ lane: ConnectedLane) throws(SessionError) {
        switch lane {
        case .stream(let socket): self.init(try StreamSetupChannel(adopting: socket))
        case .verbs(let connection): self.init(VerbsSetupChannel(connection))
        }
    }

    mutating func send(_ header: FrameHeader, payload: [UInt8], timeoutNanoseconds: UInt64) throws(SessionError) {
        if verbs != nil {
            try verbs!.send(header, payload: payload, timeoutNanoseconds: timeoutNanoseconds)
        } else {
            try stream!.send(header, payload: payload, timeoutNanoseconds: timeoutNanoseconds)
        }
    }

    mutating func receive(timeoutNanoseconds: UInt64) throws(SessionError) -> (header: FrameHeader, payload: [UInt8]) {
        if verbs != nil {
            return try verbs!.receive(timeoutNanoseconds: timeoutNanoseconds)
        } else {
            return try stream!.receive(timeoutNanoseconds: timeoutNanoseconds)
        }
    }

    /// The domain that memory for this lane's session is registered in; nil for streams.
    var domain: ProtectionDomain? { verbs?.connection.domain }

    /// Gives the lane up for the data path.
    consuming func release() -> ConnectedLane {
        if let verbs { return .verbs(verbs.connection) }
        return .stream(stream.take()!.release())
    }
}
