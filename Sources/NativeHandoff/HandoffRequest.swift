import Glibc
import PageCore

/// What a VMM asks for while its memory is served (version 2 of the protocol).
public enum HandoffRequest: Sendable, Hashable {
    /// A region whose memory it does not use any more is to be let go of.
    case remove(RegionIndex)
    /// It has gone, or says what cannot be understood.
    case ended
}

extension HandoffConnection {
    private static let requestBytes = HandoffProtocol.headerBytes + HandoffProtocol.removeBytes
    /// A request is sent in one piece; whoever splits it has so long for the rest.
    private static let restMilliseconds: Int32 = 1000

    /// The request that waits. It stays where it is until it is answered: a daemon that takes this connection over finds it again.
    ///
    /// A request that cannot be is answered here, and the next one is looked at at the next call.
    ///
    /// - Returns: nil when there is none. Does not wait.
    public borrowing func nextRequest(regionCount: Int) throws(HandoffError) -> HandoffRequest? {
        guard let head = peek(atLeast: 1) else { return nil }
        guard !head.isEmpty, version >= HandoffProtocol.versionWithRequests else { return .ended }
        do throws(HandoffError) {
            guard let bytes = peek(atLeast: HandoffProtocol.headerBytes), bytes.count >= HandoffProtocol.headerBytes else { return .ended }
            let header = try HandoffHeader(Array(bytes.prefix(HandoffProtocol.headerBytes)))
            if header.kind == .add {
                try refuse(.nothingAtSource)
                return nil
            }
            guard header.kind == .remove, header.payloadBytes == HandoffProtocol.removeBytes, header.descriptorCount == 0 else {
                try refuse(.malformed(detail: "a message that does not belong here"))
                return nil
            }
            guard let whole = peek(atLeast: Self.requestBytes), whole.count == Self.requestBytes else { return .ended }
            var reader = HandoffReader(Array(whole.dropFirst(HandoffProtocol.headerBytes)))
            let number = try reader.integer(UInt32.self)
            guard number < regionCount else {
                try refuse(.noRegion(number: number))
                return nil
            }
            return .remove(RegionIndex(number))
        } catch {
            return .ended
        }
    }

    /// The request is done: takes it from the connection, and tells the VMM.
    public borrowing func finishRequest() throws(HandoffError) {
        try dropMessage()
        try acknowledge()
    }

    /// Tells a VMM that understands it that every page is here, and that this daemon ends.
    public borrowing func tellFinished() throws(HandoffError) {
        guard version >= HandoffProtocol.versionWithRequests else { return }
        let news = HandoffAnswer(status: 0, text: "every page is here")
        try socket.send(.finished, news.encoded, deadline: HandoffDeadline(timeoutNanoseconds: 1_000_000_000))
    }

    private borrowing func refuse(_ error: HandoffError) throws(HandoffError) {
        try dropMessage()
        try answer(
            HandoffAnswer(status: error.status, text: error.description), HandoffDeadline(timeoutNanoseconds: 1_000_000_000))
    }

    /// Receives a whole message; its descriptors are closed.
    private borrowing func dropMessage() throws(HandoffError) {
        let deadline = HandoffDeadline(timeoutNanoseconds: 1_000_000_000)
        guard try socket.receive(deadline: deadline, step: "waiting for the rest of a request") != nil else {
            throw .connectionEnded(step: "in a request")
        }
    }

    /// What has come and was not received yet, at most a request; waits a moment for `count` bytes once there are any.
    ///
    /// - Returns: nothing at the connection's end, nil when nothing has come.
    private borrowing func peek(atLeast count: Int) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: Self.requestBytes)
        var milliseconds: Int32 = 0
        while true {
            // SAFETY: the array lives for the call, and its count bounds what is written.
            let length = unsafe recv(socket.rawValue, &bytes, bytes.count, Int32(MSG_PEEK) | Int32(MSG_DONTWAIT))
            if length < 0 { return errno == EAGAIN || errno == EINTR ? nil : [] }
            guard length > 0, length < count, milliseconds < Self.restMilliseconds else { return Array(bytes[..<length]) }
            // There is no event for more bytes behind those that wait.
            poll(nil, 0, 5)
            milliseconds += 5
        }
    }
}
