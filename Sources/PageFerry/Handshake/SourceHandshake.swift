import PageCore
import PageWire

/// The source's part of the handshake.
enum SourceHandshake {
    /// Reads the first message of a connection: a destination that opens a session (lane 0) or joins one.
    static func greet<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, timeoutNanoseconds: UInt64
    ) throws(SessionError) -> Hello {
        do throws(SessionError) {
            return try channel.receiveHello(from: .destination, timeoutNanoseconds: timeoutNanoseconds)
        } catch {
            channel.refuse(error)
            throw error
        }
    }

    /// Offers a session to a destination, and waits until it has accepted the regions.
    ///
    /// - Parameter timeoutNanoseconds: the destination may start its machine before it answers.
    static func offer<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, _ offer: SessionOffer, timeoutNanoseconds: UInt64
    ) throws(SessionError) {
        let ours = Hello(
            role: .source, lane: 0, laneCount: UInt8(offer.laneCount), features: offer.features, session: offer.session)
        try channel.send(.hello, ours.encoded(), timeoutNanoseconds: timeoutNanoseconds)
        try channel.send(.regionTable, RegionTable.encode(offer.layout), timeoutNanoseconds: timeoutNanoseconds)
        if let content = offer.content {
            for payload in ResidentPages.encode(content.pages) {
                try channel.send(.residentPages, payload, timeoutNanoseconds: timeoutNanoseconds)
            }
        }
        _ = try channel.receive(.accept, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Answers a destination that comes back, and learns what it has.
    ///
    /// - Parameter timeoutNanoseconds: for each step.
    static func resume<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, _ offer: SessionOffer, timeoutNanoseconds: UInt64
    ) throws(SessionError) -> ResidentMap {
        let ours = Hello(
            role: .source, lane: 0, laneCount: UInt8(offer.laneCount), features: offer.features, session: offer.session)
        try channel.send(.hello, ours.encoded(), timeoutNanoseconds: timeoutNanoseconds)
        let resident = try channel.receiveResidentPages(offer.layout, timeoutNanoseconds: timeoutNanoseconds)
        _ = try channel.receive(.accept, timeoutNanoseconds: timeoutNanoseconds)
        return resident
    }

    /// Checks that a connection belongs to the session, and to a lane that is still free.
    static func admit<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, _ hello: Hello, to offer: SessionOffer, freeLanes: Set<Int>, timeoutNanoseconds: UInt64
    ) throws(SessionError) {
        guard offer.session.matches(hello.session), freeLanes.contains(Int(hello.lane)) else {
            channel.refuse(.unknownSession)
            throw .unknownSession
        }
        try channel.send(.accept, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// A new session's name and secret, from the kernel's random numbers.
    static func newSession() -> SessionIdentity {
        var random = SystemRandomNumberGenerator()
        return SessionIdentity(
            identifier: random.next() | 1, secretLow: random.next(), secretHigh: random.next())
    }
}
