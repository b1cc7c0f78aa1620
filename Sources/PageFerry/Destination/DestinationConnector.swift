import PageCore
import PageWire
import StreamTransport

/// How a session's bytes travel.
public enum TransportChoice: String, Sendable, CaseIterable {
    /// RDMA where it works, else TCP.
    case auto
    /// TCP or a unix socket.
    case tcp
    case rdma
}

/// A destination's way to its source: connects, learns what is offered, accepts it, joins the lanes.
public struct DestinationConnector: ~Copyable {
    public struct Configuration: Sendable {
        public var features: ProtocolFeatures = []
        public var transport = TransportChoice.tcp
        /// Bulk lanes wanted beside the urgent lane; the source may grant fewer.
        public var bulkLanes = 2
        /// Over RDMA: whether the source may write to guest memory here.
        public var push = PushMethod.read
        /// Of lanes over streams; RDMA has none.
        public var security = LaneSecurity.plain
        public var connectTimeoutNanoseconds: UInt64 = 10_000_000_000
        public var stepTimeoutNanoseconds: UInt64 = 10_000_000_000

        public init() {}
    }

    private let way: SourceWay
    private let configuration: Configuration
    private var urgent: LaneChannel
    private let offer: SessionOffer
    /// Why RDMA is not used although it was tried; nil when it is used, or was not wanted.
    public let fallback: SessionError?

    /// Connects to a source and opens a session; nothing is committed yet on either side.
    public init(to address: StreamAddress, configuration: Configuration) throws(SessionError) {
        try self.init(SourceWay(address: address), configuration)
    }

    /// Opens a session over sockets that somebody else has connected to a source: as many lanes as there are sockets, or fewer.
    ///
    /// - Parameters:
    ///   - sockets: the urgent lane's first, each used once whatever comes of it; the source adopts their other ends.
    ///   - address: where the source is looked for when the link is lost; nil when only `DestinationSession.recover` will say.
    ///   - configuration: its `bulkLanes` and `transport` matter after a lost link only.
    public init(
        adopting sockets: AdoptedSockets, returningTo address: StreamAddress? = nil, configuration: Configuration
    ) throws(SessionError) {
        if address == nil, configuration.security.takesNameFromHost {
            throw .badCredentials(
                "over sockets that are connected already the source's certificate is checked by name alone; give the name it carries")
        }
        try self.init(SourceWay(address: address, sockets: sockets), configuration)
    }

    private init(_ way: SourceWay, _ configuration: Configuration) throws(SessionError) {
        self.way = way
        self.configuration = configuration
        var fallback: SessionError?
        var channel = try way.connectFirst(configuration, &fallback)
        // RDMA has a lane more: control, and the demanded pages apart from it.
        offer = try DestinationHandshake.open(
            &channel, lanesWanted: way.laneCount(configuration, isRDMA: channel.domain != nil), features: configuration.features,
            timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        self.fallback = fallback
        urgent = channel
    }

    /// The memory the source offers.
    public var layout: RegionLayout { offer.layout }

    /// Whether the source sends a machine state ahead of the pages.
    public var features: ProtocolFeatures { offer.features }

    /// Whether pages will come by RDMA.
    public var usesRDMA: Bool { urgent.domain != nil }

    /// Allocates memory ahead (`DestinationRegions.prefault`): all of it, or as much as the source says that it holds something in.
    ///
    /// Does nothing for regions that are not those of the source, which `accept` will say.
    public borrowing func prefault(_ regions: DestinationRegions, deadlineNanoseconds: UInt64) throws(SessionError) {
        do throws(SessionError) { try DestinationHandshake.match(offer.layout, with: regions.layout) } catch { return }
        try regions.prefault(only: offer.content, deadlineNanoseconds: deadlineNanoseconds)
    }

    /// Tells the source why nothing comes of it.
    public consuming func refuse(_ error: SessionError) {
        var urgent = urgent
        urgent.refuse(error)
        urgent.release().close()
    }

    /// Checks the source's regions against what was handed over here, accepts them and joins all lanes.
    ///
    /// Over RDMA the memory is registered first, which allocates and pins it; the guest still runs on the source then.
    public consuming func accept(_ regions: DestinationRegions) throws(SessionError) -> OpenedDestination {
        let (way, configuration, offer) = (way, configuration, offer)
        var urgent = urgent
        let registration: DestinationRegistration?
        let domain = urgent.domain
        do throws(SessionError) {
            try DestinationHandshake.match(offer.layout, with: regions.layout)
            guard domain == nil || offer.laneCount >= 2 else { throw .unexpectedFrame(.hello) }
            registration =
                if let domain {
                    try DestinationRegistration(regions, domain: domain, isWritable: configuration.push == .write)
                } else { nil }
        } catch {
            urgent.refuse(error)
            urgent.release().close()
            throw error
        }
        try DestinationHandshake.accept(&urgent, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        var lanes = [urgent.release()]
        do throws(SessionError) {
            for lane in stride(from: 1, to: offer.laneCount, by: 1) {
                var channel = try way.connect(configuration, domain)
                try DestinationHandshake.join(
                    &channel, lane: lane, offer: offer, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
                lanes.append(channel.release())
            }
        } catch {
            for lane in lanes { lane.close() }
            throw error
        }
        way.sockets?.closeRest()
        return OpenedDestination(
            lanes: lanes, features: offer.features, layout: offer.layout, registration: registration,
            finder: SourceFinder(
                way: SourceWay(address: way.address), configuration: configuration, session: offer.session, layout: offer.layout,
                domain: domain))
    }
}

/// A source that has been accepted, with all lanes joined.
public struct OpenedDestination: Sendable {
    /// The urgent lane first; owned by whoever takes this.
    var lanes: [ConnectedLane]
    public let features: ProtocolFeatures
    public let layout: RegionLayout
    /// The memory as RDMA knows it; nil for streams.
    let registration: DestinationRegistration?
    /// The way back to the source.
    let finder: SourceFinder
}
