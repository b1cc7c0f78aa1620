import PageCore
import PageWire

/// What a source offers a destination that has opened a session.
struct SessionOffer: Sendable {
    var session: SessionIdentity
    /// Lanes granted, the urgent one included.
    var laneCount: Int
    var features: ProtocolFeatures
    var layout: RegionLayout
    /// Which pages hold something, as far as the source says; the others may do so by the time it stops. nil: it says nothing.
    var content: ResidentMap?
}

/// The destination's part of the handshake.
enum DestinationHandshake {
    /// Opens a session on the first connection, which becomes its urgent lane.
    static func open<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, lanesWanted: Int, features: ProtocolFeatures, timeoutNanoseconds: UInt64
    ) throws(SessionError) -> SessionOffer {
        let ours = Hello(
            role: .destination, lane: 0, laneCount: UInt8(lanesWanted), features: features.union(.contentMap), session: .unassigned)
        try channel.send(.hello, ours.encoded(), timeoutNanoseconds: timeoutNanoseconds)
        do throws(SessionError) {
            let theirs = try channel.receiveHello(from: .source, timeoutNanoseconds: timeoutNanoseconds)
            guard Int(theirs.laneCount) <= lanesWanted else { throw .unexpectedFrame(.hello) }
            let payload = try channel.receive(.regionTable, timeoutNanoseconds: timeoutNanoseconds)
            let layout: RegionLayout
            do {
                layout = try RegionTable.decode(payload)
            } catch {
                throw .damagedFrame(error)
            }
            let content = theirs.features.contains(.contentMap) ? try receiveContent(&channel, layout, timeoutNanoseconds) : nil
            return SessionOffer(
                session: theirs.session, laneCount: Int(theirs.laneCount), features: theirs.features.intersection(features),
                layout: layout, content: content)
        } catch {
            channel.refuse(error)
            throw error
        }
    }

    private static func receiveContent<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, _ layout: RegionLayout, _ timeoutNanoseconds: UInt64
    ) throws(SessionError) -> ResidentMap {
        guard layout.totalPages <= ResidentPages.mostToldPages else { throw .unexpectedFrame(.residentPages) }
        return try channel.receiveResidentPages(layout, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Accepts the offer: lanes may be joined.
    static func accept<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, timeoutNanoseconds: UInt64
    ) throws(SessionError) {
        try channel.send(.accept, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Comes back to a session on a new first connection, and says what is here.
    ///
    /// - Parameters:
    ///   - resident: the payloads of `residentPages` frames.
    ///   - timeoutNanoseconds: for each step.
    static func resume<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, _ session: SessionIdentity, lanesWanted: Int, layout: RegionLayout, resident: [[UInt8]],
        timeoutNanoseconds: UInt64
    ) throws(SessionError) -> SessionOffer {
        let ours = Hello(role: .destination, lane: 0, laneCount: UInt8(lanesWanted), features: [], session: session)
        try channel.send(.hello, ours.encoded(), timeoutNanoseconds: timeoutNanoseconds)
        let theirs = try channel.receiveHello(from: .source, timeoutNanoseconds: timeoutNanoseconds)
        // Whoever answers must know the secret too.
        guard Int(theirs.laneCount) <= lanesWanted, session.matches(theirs.session) else { throw .unexpectedFrame(.hello) }
        for payload in resident { try channel.send(.residentPages, payload, timeoutNanoseconds: timeoutNanoseconds) }
        try channel.send(.accept, timeoutNanoseconds: timeoutNanoseconds)
        return SessionOffer(
            session: session, laneCount: Int(theirs.laneCount), features: theirs.features, layout: layout)
    }

    /// Makes a further connection a bulk lane of the session.
    static func join<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, lane: Int, offer: SessionOffer, timeoutNanoseconds: UInt64
    ) throws(SessionError) {
        let ours = Hello(
            role: .destination, lane: UInt8(lane), laneCount: UInt8(offer.laneCount), features: offer.features,
            session: offer.session)
        try channel.send(.hello, ours.encoded(), timeoutNanoseconds: timeoutNanoseconds)
        _ = try channel.receive(.accept, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Checks that what the source has fits what was handed over here: as many regions, in order, of the same lengths
    /// and page sizes. Names are for people and may differ.
    static func match(_ offered: RegionLayout, with handedOver: RegionLayout) throws(SessionError) {
        guard offered.count == handedOver.count else {
            throw .regionMismatch(
                "the source has \(offered.count) memory regions (\(names(offered))), this host \(handedOver.count) (\(names(handedOver))); give both machines the same memory backends"
            )
        }
        for (theirs, ours) in zip(offered.regions, handedOver.regions) {
            guard theirs.lengthBytes == ours.lengthBytes else {
                throw .regionMismatch(
                    "memory region '\(theirs.name)' has \(theirs.lengthBytes >> 20) MiB (\(theirs.lengthBytes) bytes) on the source and \(ours.lengthBytes >> 20) MiB (\(ours.lengthBytes) bytes) here; give both machines the same memory size"
                )
            }
            guard theirs.pageSize == ours.pageSize else {
                throw .regionMismatch(
                    "memory region '\(theirs.name)' has \(theirs.pageSize.bytes >> 10) KiB pages on the source and \(ours.pageSize.bytes >> 10) KiB pages here; use the same kind of memory backend on both hosts, or serve a memory file with --page-size"
                )
            }
        }
    }

    private static func names(_ layout: RegionLayout) -> String {
        layout.regions.map { "'\($0.name)'" }.joined(separator: ", ")
    }
}
