import PageCore
import PageWire
import StreamTransport

/// What proves that a daemon started again belongs to a session: to be kept where only its user can read it.
public struct SessionTicket: Sendable, Hashable, Codable {
    let identifier: UInt64
    let secretLow: UInt64
    let secretHigh: UInt64

    init(_ session: SessionIdentity) {
        identifier = session.identifier
        secretLow = session.secretLow
        secretHigh = session.secretHigh
    }

    /// Tells sessions apart, in names of files; not a secret.
    public var name: String { String(identifier, radix: 16) }

    var session: SessionIdentity { SessionIdentity(identifier: identifier, secretLow: secretLow, secretHigh: secretHigh) }
}

extension OpenedSource {
    /// What a daemon that takes this session over must know.
    public var ticket: SessionTicket { SessionTicket(port.session) }
}

extension OpenedDestination {
    /// What a daemon that takes this session over must know.
    public var ticket: SessionTicket { SessionTicket(finder.session) }

    /// A session whose daemon has died, to be taken over: its source is looked for first.
    ///
    /// - Parameters:
    ///   - ticket: what the daemon that died has kept.
    ///   - layout: as it was handed over again.
    ///   - address: where the source was.
    ///   - configuration: as that daemon had it.
    public static func takingOver(
        _ ticket: SessionTicket, layout: RegionLayout, address: StreamAddress, configuration: DestinationConnector.Configuration
    ) -> OpenedDestination {
        OpenedDestination(
            lanes: [], features: configuration.features, layout: layout, registration: nil,
            finder: SourceFinder(
                way: SourceWay(address: address), configuration: configuration, session: ticket.session, layout: layout, domain: nil))
    }
}

extension DestinationSession {
    /// How far a session with a machine had come when its daemon died.
    public struct Standing: Sendable, Hashable, Codable {
        /// The source has given the machine up.
        public var isCommitted = false
        /// The guest runs here.
        public var isResumed = false

        public init() {}
    }

    /// A session that goes on from what another daemon has left.
    public struct Takeover: Sendable {
        /// What that daemon had on record; this one goes on with it.
        public var record: ResidentRecord
        /// nil without a machine.
        public var standing: Standing?

        public init(record: ResidentRecord, standing: Standing?) {
            self.record = record
            self.standing = standing
        }
    }
}
