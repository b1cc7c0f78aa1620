import PageCore
import PageWire
import StreamTransport
import Verbs
import VerbsTransport

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

    private let address: StreamAddress
    private let configuration: Configuration
    private var urgent: LaneChannel
    private let offer: SessionOffer
    /// Why RDMA is not used although it was tried; nil when it is used, or was not wanted.
    public let fallback: SessionError?

    /// Connects to a source and opens a session; nothing is committed yet on either side.
    public init(to address: StreamAddress, configuration: Configuration) throws(SessionError) {
        self.address = address
        self.configuration = configuration
        var fallback: SessionError?
        var channel = try Self.connectFirst(address, configuration, &fallback)
        offer = try Self.open(&channel, configuration)
        self.fallback = fallback
        urgent = channel
    }

    private static func open(_ channel: inout LaneChannel, _ configuration: Configuration) throws(SessionError) -> SessionOffer {
        // RDMA has a lane more: control, and the demanded pages apart from it.
        let lanes = (channel.domain == nil ? 1 : 2) + configuration.bulkLanes
        return try DestinationHandshake.open(
            &channel, lanesWanted: min(lanes, Hello.mostLanes), features: configuration.features,
            timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
    }

    /// The memory the source offers.
    public var layout: RegionLayout { offer.layout }

    /// Whether the source sends a machine state ahead of the pages.
    public var features: ProtocolFeatures { offer.features }

    /// Whether pages will come by RDMA.
    public var usesRDMA: Bool { urgent.domain != nil }

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
        let (address, configuration, offer) = (address, configuration, offer)
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
                var channel = try Self.connect(address, configuration, domain)
                try DestinationHandshake.join(
                    &channel, lane: lane, offer: offer, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
                lanes.append(channel.release())
            }
        } catch {
            for lane in lanes { lane.close() }
            throw error
        }
        return OpenedDestination(
            lanes: lanes, features: offer.features, layout: offer.layout, registration: registration,
            finder: SourceFinder(address: address, configuration: configuration, session: offer.session, layout: offer.layout, domain: domain))
    }

    // MARK: Connecting

    private static func connectFirst(
        _ address: StreamAddress, _ configuration: Configuration, _ fallback: inout SessionError?
    ) throws(SessionError) -> LaneChannel {
        if configuration.transport == .tcp { return try connectStream(address, configuration) }
        do throws(SessionError) {
            return try connectVerbs(address, configuration, nil)
        } catch {
            guard configuration.transport == .auto else { throw error }
            fallback = error
            return try connectStream(address, configuration)
        }
    }

    static func connect(
        _ address: StreamAddress, _ configuration: Configuration, _ domain: ProtectionDomain?
    ) throws(SessionError) -> LaneChannel {
        domain == nil ? try connectStream(address, configuration) : try connectVerbs(address, configuration, domain)
    }

    private static func connectVerbs(
        _ address: StreamAddress, _ configuration: Configuration, _ domain: ProtectionDomain?
    ) throws(SessionError) -> LaneChannel {
        guard case .tcp(let host, let port) = address else {
            throw .cannotConnect("RDMA needs a host and a port, and \(address) is neither; use --transport tcp")
        }
        do throws(VerbsError) {
            let connection = try VerbsConnection.connect(
                to: VerbsAddress(host: host, port: port), domain: domain,
                timeoutNanoseconds: configuration.connectTimeoutNanoseconds)
            return LaneChannel(VerbsSetupChannel(connection))
        } catch {
            throw SessionError(error)
        }
    }

    private static func connectStream(
        _ address: StreamAddress, _ configuration: Configuration
    ) throws(SessionError) -> LaneChannel {
        let connection: StreamConnection
        do throws(StreamError) {
            connection = try StreamConnection.connect(to: address, timeoutNanoseconds: configuration.connectTimeoutNanoseconds)
        } catch .cannotResolve(let host, let reason) {
            throw .unknownHost(StreamError.cannotResolve(host: host, reason: reason).description)
        } catch {
            throw .cannotConnect(error.description)
        }
        var host: String?
        if case .tcp(let name, _) = address { host = name }
        return LaneChannel(try configuration.security.protect(
            connection, host: host, timeoutNanoseconds: configuration.stepTimeoutNanoseconds))
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
