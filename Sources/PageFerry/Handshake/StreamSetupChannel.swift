import PageWire
import StreamTransport

/// A stream connection during set-up.
struct StreamSetupChannel: ~Copyable, SetupChannel {
    private var connection: StreamConnection
    let peerDescription: String

    init(_ connection: consuming StreamConnection) {
        peerDescription = connection.peerDescription
        self.connection = connection
    }

    /// Takes over a connected socket.
    ///
    /// - Parameter peerDescription: for messages; nil asks the socket.
    init(adopting socket: Int32, peerDescription: String? = nil) throws(SessionError) {
        do throws(StreamError) {
            let connection = try StreamConnection(adopting: socket)
            self.peerDescription = peerDescription ?? connection.peerDescription
            self.connection = connection
        } catch {
            throw SessionError(error)
        }
    }

    mutating func send(_ header: FrameHeader, payload: [UInt8], timeoutNanoseconds: UInt64) throws(SessionError) {
        do throws(StreamError) {
            // SAFETY: the array outlives the call, which waits until the kernel has taken all of it.
            try unsafe payload.span.bytes.withUnsafeBytes { (bytes) throws(StreamError) in
                try unsafe connection.sendFrame(header, payload: bytes, timeoutNanoseconds: timeoutNanoseconds)
            }
        } catch {
            throw SessionError(error)
        }
    }

    mutating func receive(timeoutNanoseconds: UInt64) throws(SessionError) -> (header: FrameHeader, payload: [UInt8]) {
        var payload = [UInt8](repeating: 0, count: FrameLimits.mostControlBytes)
        do throws(StreamError) {
            // SAFETY: the array outlives the call, which writes within its bounds and keeps nothing.
            var span = payload.mutableSpan
            var bytes = unsafe span.mutableBytes
            let header = try unsafe bytes.withUnsafeMutableBytes { (bytes) throws(StreamError) in
                try unsafe connection.receiveFrame(into: bytes, timeoutNanoseconds: timeoutNanoseconds)
            }
            payload.removeLast(payload.count - header.payloadBytes)
            return (header, payload)
        } catch {
            throw SessionError(error)
        }
    }

    /// The connection's descriptor, for the data path.
    consuming func release() -> Int32 { connection.release() }
}

extension SessionError {
    /// The failure of a connection during set-up.
    init(_ error: StreamError) {
        switch error {
        case .refused(let frame): self = .damagedFrame(frame)
        case .payloadTooLarge: self = .damagedFrame(.malformedPayload(kind: .hello))
        case .timedOut(let peer): self = .timedOut("\(peer) did not answer in time; check that it is running and reachable")
        case .endOfStream, .truncated, .connectionFailed: self = .linkLost(error.description)
        default: self = .cannotConnect(error.description)
        }
    }
}
