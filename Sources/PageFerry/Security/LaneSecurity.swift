import PageCore
import SecureStream
import StreamTransport

/// How the lanes of sessions over streams are protected: not at all, or each by TLS 1.3 with both sides authenticated
/// (Documentation/Decisions/0009-tls.md).
public struct LaneSecurity: Sendable {
    private let context: TLSContext?
    private let peerName: String?

    /// In the clear: for unix sockets, loopback, and networks that are protected otherwise.
    public static let plain = LaneSecurity(context: nil, peerName: nil)

    private init(context: TLSContext?, peerName: String?) {
        self.context = context
        self.peerName = peerName
    }

    /// Reads the credentials.
    ///
    /// - Parameters:
    ///   - credentials: a key that both sides have, or certificates of one authority.
    ///   - role: `client` for a destination, `server` for a source.
    ///   - peerName: the host name or IP address that the peer's certificate must carry. For a destination that names none it is the
    ///     host it connects to; for a source, any certificate of the authority does.
    public init(_ credentials: TLSCredentials, role: TLSContext.Role, peerName: String? = nil) throws(SessionError) {
        do throws(TLSError) {
            self.init(context: try TLSContext(credentials, role: role), peerName: peerName)
        } catch {
            throw SessionError(error)
        }
    }

    public var isPlain: Bool { context == nil }

    /// Whether a destination knows whom its source must be only by the host that it connects to.
    var takesNameFromHost: Bool {
        guard let context else { return false }
        return context.role == .client && !context.usesSharedSecret && peerName == nil
    }

    /// Makes a fresh connection secure before its first frame.
    ///
    /// - Parameters:
    ///   - host: what was connected to; nil on the side that listens.
    ///   - timeoutNanoseconds: for the whole TLS handshake.
    func protect(
        _ connection: consuming StreamConnection, host: String?, timeoutNanoseconds: UInt64
    ) throws(SessionError) -> StreamSetupChannel {
        guard let context else { return StreamSetupChannel(connection) }
        let peer = connection.peerDescription
        let socket: Int32
        do throws(TLSError) {
            socket = try LanePump.start(
                context, socket: connection.release(), peer: peer, peerName: peerName ?? host,
                deadlineNanoseconds: MonotonicClock.nowNanoseconds() + timeoutNanoseconds)
        } catch {
            throw SessionError(error)
        }
        return try StreamSetupChannel(adopting: socket, peerDescription: "\(peer) (TLS)")
    }

    /// The set-up channel of a lane that was accepted: a stream is made secure first.
    func channel(over lane: ConnectedLane, timeoutNanoseconds: UInt64) throws(SessionError) -> LaneChannel {
        guard case .stream(let socket) = lane else { return try LaneChannel(lane) }
        let connection: StreamConnection
        do throws(StreamError) { connection = try StreamConnection(adopting: socket) } catch { throw SessionError(error) }
        return LaneChannel(try protect(connection, host: nil, timeoutNanoseconds: timeoutNanoseconds))
    }
}

extension SessionError {
    init(_ error: TLSError) {
        switch error {
        case .timedOut: self = .timedOut(String(error.description.dropFirst("timed out: ".count)))
        case .lost, .damaged: self = .linkLost(error.description)
        case .notTLS, .notTrusted: self = .notTrusted(error.description)
        case .cannotRead, .secretIsOpen, .secretLength, .badFile, .unavailable: self = .badCredentials(error.description)
        }
    }
}
