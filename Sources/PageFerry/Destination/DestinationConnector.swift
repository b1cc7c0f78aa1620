import Glibc
import PageCore
import PageWire
import StreamTransport

/// A destination's way to its source: connects, learns what is offered, accepts it, joins the lanes.
public struct DestinationConnector: ~Copyable {
    public struct Configuration: Sendable {
        public var features: ProtocolFeatures = []
        /// Bulk lanes wanted beside the urgent lane; the source may grant fewer.
        public var bulkLanes = 2
        public var connectTimeoutNanoseconds: UInt64 = 10_000_000_000
        public var stepTimeoutNanoseconds: UInt64 = 10_000_000_000

        public init() {}
    }

    private let address: StreamAddress
    private let configuration: Configuration
    private var urgent: StreamSetupChannel
    private let offer: SessionOffer

    /// Connects to a source and opens a session; nothing is committed yet on either side.
    public init(to address: StreamAddress, configuration: Configuration) throws(SessionError) {
        self.address = address
        self.configuration = configuration
        var channel = try Self.connect(address, configuration)
        offer = try DestinationHandshake.open(
            &channel, lanesWanted: 1 + configuration.bulkLanes, features: configuration.features,
            timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        urgent = channel
    }

    /// The memory the source offers.
    public var layout: RegionLayout { offer.layout }

    /// Whether the source sends a machine state ahead of the pages.
    public var features: ProtocolFeatures { offer.features }

    /// Tells the source why nothing comes of it.
    public consuming func refuse(_ error: SessionError) {
        var urgent = urgent
        urgent.refuse(error)
    }

    /// Checks the source's regions against what was handed over here, accepts them and joins all lanes.
    public consuming func accept(_ handedOver: RegionLayout) throws(SessionError) -> OpenedDestination {
        let (address, configuration, offer) = (address, configuration, offer)
        var urgent = urgent
        do throws(SessionError) {
            try DestinationHandshake.match(offer.layout, with: handedOver)
        } catch {
            urgent.refuse(error)
            throw error
        }
        try DestinationHandshake.accept(&urgent, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        var lanes = [urgent.release()]
        do throws(SessionError) {
            for lane in stride(from: 1, to: offer.laneCount, by: 1) {
                var channel = try Self.connect(address, configuration)
                try DestinationHandshake.join(
                    &channel, lane: lane, offer: offer, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
                lanes.append(channel.release())
            }
        } catch {
            for lane in lanes { Glibc.close(lane) }
            throw error
        }
        return OpenedDestination(lanes: lanes, features: offer.features, layout: offer.layout)
    }

    private static func connect(
        _ address: StreamAddress, _ configuration: Configuration
    ) throws(SessionError) -> StreamSetupChannel {
        do throws(StreamError) {
            return StreamSetupChannel(
                try StreamConnection.connect(to: address, timeoutNanoseconds: configuration.connectTimeoutNanoseconds))
        } catch .cannotResolve(let host, let reason) {
            throw .unknownHost(StreamError.cannotResolve(host: host, reason: reason).description)
        } catch {
            throw .cannotConnect(error.description)
        }
    }
}

/// A source that has been accepted, with all lanes joined.
public struct OpenedDestination: Sendable {
    /// One connected socket a lane, the urgent one first; owned by whoever takes this.
    var lanes: [Int32]
    public let features: ProtocolFeatures
    public let layout: RegionLayout
}
