import PageCore
import PageWire

/// What a source offers a destination that has opened a session.
struct SessionOffer: Sendable {
    var session: SessionIdentity
    /// Lanes granted, the urgent one included.
    var laneCount: Int
    var features: ProtocolFeatures
    var layout: RegionLayout
}

/// The destination's part of the handshake.
enum DestinationHandshake {
    /// Opens a session on the first connection, which becomes its urgent lane.
    static func open<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, lanesWanted: Int, features: ProtocolFeatures, timeoutNanoseconds: UInt64
    ) throws(SessionError) -> SessionOffer {
        let ours = Hello(
            role: .destination, lane: 0, laneCount: UInt8(lanesWanted), features: features, session: .unassigned)
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
            return SessionOffer(
                session: theirs.session, laneCount: Int(theirs.laneCount), features: theirs.features.intersection(features),
                layout: layout)
        } catch {
            channel.refuse(error)
            throw error
        }
    }

    /// Accepts the offer: lanes may be joined.
    static func accept<Channel: SetupChannel & ~Copyable>(
        _ channel: inout Channel, timeoutNanoseconds: UInt64
    ) throws(SessionError) {
        try channel.send(.accept, timeoutNanoseconds: timeoutNanoseconds)
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
                    "memory region '\(theirs.name)' has \(theirs.pageSize.bytes >> 10) KiB pages on the source and \(ours.pageSize.bytes >> 10) KiB pages here; use the same kind of memory backend on both hosts"
                )
            }
        }
    }

    private static func names(_ layout: RegionLayout) -> String {
        layout.regions.map { "'\($0.name)'" }.joined(separator: ", ")
    }
}
