import PageCore
import PageWire
import StreamTransport
import Verbs

/// The lanes to a source, new or found again.
struct DestinationLink: Sendable {
    /// The urgent lane first.
    var lanes: [ConnectedLane]

    func close() {
        for lane in lanes { lane.close() }
    }
}

/// Finds a source again after the link to it was lost: what connecting to it takes, and what proves that it is the same session.
struct SourceFinder: Sendable {
    var way: SourceWay
    let configuration: DestinationConnector.Configuration
    let session: SessionIdentity
    let layout: RegionLayout
    /// Where the memory is registered; nil when pages came over a stream, and will again.
    let domain: ProtectionDomain?

    /// Connects, says what is here, and joins the lanes. Blocks; for a thread of its own.
    ///
    /// - Parameter resident: the payloads of `residentPages` frames.
    func connect(resident: [[UInt8]]) throws(SessionError) -> DestinationLink {
        guard let domain, configuration.transport != .tcp, way.sockets == nil else { return try connect(resident, nil) }
        do throws(SessionError) {
            return try connect(resident, domain)
        } catch {
            // TCP in place of RDMA is slower, and a guest that goes on. A source that knows no such session says so over either.
            guard configuration.transport == .auto, error != .peerUnknowsSession else { throw error }
            return try connect(resident, nil)
        }
    }

    private func connect(_ resident: [[UInt8]], _ domain: ProtectionDomain?) throws(SessionError) -> DestinationLink {
        defer { way.sockets?.closeRest() }
        let timeoutNanoseconds = configuration.stepTimeoutNanoseconds
        var channel = try way.connect(configuration, domain)
        var lanes: [ConnectedLane] = []
        do throws(SessionError) {
            let offer = try DestinationHandshake.resume(
                &channel, session, lanesWanted: way.laneCount(configuration, isRDMA: domain != nil), layout: layout, resident: resident,
                timeoutNanoseconds: timeoutNanoseconds)
            lanes.append(channel.release())
            for lane in stride(from: 1, to: offer.laneCount, by: 1) {
                var further = try way.connect(configuration, domain)
                try DestinationHandshake.join(&further, lane: lane, offer: offer, timeoutNanoseconds: timeoutNanoseconds)
                lanes.append(further.release())
            }
            return DestinationLink(lanes: lanes)
        } catch {
            for lane in lanes { lane.close() }
            throw error
        }
    }
}

extension SessionError {
    /// What a source answers that has no such session, or none that goes on.
    static let peerUnknowsSession = SessionError.peerFailed(SessionError.unknownSession.failure)
}
