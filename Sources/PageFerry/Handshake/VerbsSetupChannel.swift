import PageWire
import Verbs
import VerbsTransport

/// An RDMA connection during set-up.
struct VerbsSetupChannel: SetupChannel {
    let connection: VerbsConnection
    var peerDescription: String { connection.peerDescription }

    init(_ connection: VerbsConnection) { self.connection = connection }

    func send(_ header: FrameHeader, payload: [UInt8], timeoutNanoseconds: UInt64) throws(SessionError) {
        do throws(VerbsConnection.FrameFailure) {
            // SAFETY: the bytes are copied during the call.
            try unsafe payload.span.bytes.withUnsafeBytes { (bytes) throws(VerbsConnection.FrameFailure) in
                try unsafe connection.sendFrame(header, payload: bytes, timeoutNanoseconds: timeoutNanoseconds)
            }
        } catch {
            throw SessionError(error)
        }
    }

    func receive(timeoutNanoseconds: UInt64) throws(SessionError) -> (header: FrameHeader, payload: [UInt8]) {
        var payload = [UInt8](repeating: 0, count: FrameLimits.mostControlBytes)
        do throws(VerbsConnection.FrameFailure) {
            // SAFETY: the array outlives the call, which writes within its bounds and keeps nothing.
            var span = payload.mutableSpan
            var bytes = unsafe span.mutableBytes
            let header = try unsafe bytes.withUnsafeMutableBytes { (bytes) throws(VerbsConnection.FrameFailure) in
                try unsafe connection.receiveFrame(into: bytes, timeoutNanoseconds: timeoutNanoseconds)
            }
            payload.removeLast(payload.count - header.payloadBytes)
            return (header, payload)
        } catch {
            throw SessionError(error)
        }
    }
}

extension SessionError {
    /// The failure of an RDMA connection during set-up.
    init(_ failure: VerbsConnection.FrameFailure) {
        switch failure {
        case .refused(let frame): self = .damagedFrame(frame)
        case .payloadTooLarge: self = .damagedFrame(.malformedPayload(kind: .hello))
        case .verbs(let error): self.init(error)
        }
    }

    init(_ error: VerbsError) {
        switch error {
        case .timedOut(let peer): self = .timedOut("\(peer) did not answer in time; check that it is running and reachable")
        case .disconnected, .work, .deviceRemoved: self = .linkLost(error.description)
        case .cannotResolve: self = .unknownHost(error.description)
        case .lockedMemoryLimit: self = .memory(error.description)
        case .failed(call: .registerMemory, _): self = .memory(error.description)
        default: self = .cannotConnect(error.description)
        }
    }
}
