/// What a peer can do beyond the base protocol. Unknown bits are ignored; the session uses what both have.
public struct ProtocolFeatures: OptionSet, Sendable, Hashable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// Machine state is carried ahead of the pages, and the switch is committed (`guestStopped` … `resumed`).
    public static let machineState = ProtocolFeatures(rawValue: 1 << 0)
    /// The source tells in the handshake which pages hold something, by `residentPages` frames behind its regions.
    public static let contentMap = ProtocolFeatures(rawValue: 1 << 1)
}

/// Which side of a session a peer is.
public enum SessionRole: UInt8, Sendable, Hashable {
    case source = 1
    case destination = 2
}

/// Names one session, and proves on every further connection that it belongs to it.
public struct SessionIdentity: Sendable, Hashable {
    /// A random number that tells sessions apart; not a secret.
    public let identifier: UInt64
    /// 128 random bits known to both ends of the session only; zero before the source has chosen them.
    public let secretLow: UInt64
    public let secretHigh: UInt64

    public init(identifier: UInt64, secretLow: UInt64, secretHigh: UInt64) {
        self.identifier = identifier
        self.secretLow = secretLow
        self.secretHigh = secretHigh
    }

    /// What a destination sends on its first connection.
    public static let unassigned = SessionIdentity(identifier: 0, secretLow: 0, secretHigh: 0)

    /// Whether `other` is the same session, in time that does not depend on where the secrets differ.
    public func matches(_ other: SessionIdentity) -> Bool {
        (identifier ^ other.identifier) | (secretLow ^ other.secretLow) | (secretHigh ^ other.secretHigh) == 0
    }
}

/// The first message of either side on every connection: the payload of a `hello` frame.
public struct Hello: Sendable, Hashable {
    /// "PAGEFERY" read as a little-endian number.
    public static let magic: UInt64 = 0x5952_4546_4547_4150
    /// The versions this build speaks.
    public static let supportedVersions: ClosedRange<UInt16> = 3...3
    /// The most lanes a session may have, the urgent one included.
    public static let mostLanes = 16

    public var versions: ClosedRange<UInt16>
    public var role: SessionRole
    /// The lane this connection is to be; 0 opens a session, or resumes the one that `session` names; others join it.
    public var lane: UInt8
    /// The lanes wanted (from the destination) or granted (from the source), the urgent one included.
    public var laneCount: UInt8
    public var features: ProtocolFeatures
    public var session: SessionIdentity

    public init(
        versions: ClosedRange<UInt16> = Hello.supportedVersions,
        role: SessionRole,
        lane: UInt8,
        laneCount: UInt8,
        features: ProtocolFeatures,
        session: SessionIdentity
    ) {
        self.versions = versions
        self.role = role
        self.lane = lane
        self.laneCount = laneCount
        self.features = features
        self.session = session
    }

    /// The payload: magic, versions low and high, role, lane, lanes, reserved, features, session and secret; 48 bytes.
    public func encoded() -> [UInt8] {
        var writer = PayloadWriter()
        writer.integer(Self.magic)
        writer.integer(versions.lowerBound)
        writer.integer(versions.upperBound)
        writer.integer(role.rawValue)
        writer.integer(lane)
        writer.integer(laneCount)
        writer.integer(UInt8(0))
        writer.integer(features.rawValue)
        writer.integer(UInt32(0))
        writer.integer(session.identifier)
        writer.integer(session.secretLow)
        writer.integer(session.secretHigh)
        return writer.bytes
    }

    public init(decoding payload: [UInt8]) throws(FrameError) {
        var reader = PayloadReader(payload, of: .hello)
        guard try reader.integer(UInt64.self) == Self.magic else { throw .malformedPayload(kind: .hello) }
        let low = try reader.integer(UInt16.self)
        let high = try reader.integer(UInt16.self)
        let role = SessionRole(rawValue: try reader.integer())
        let lane = try reader.integer(UInt8.self)
        let laneCount = try reader.integer(UInt8.self)
        _ = try reader.integer(UInt8.self)
        let features = ProtocolFeatures(rawValue: try reader.integer())
        _ = try reader.integer(UInt32.self)
        let session = SessionIdentity(
            identifier: try reader.integer(), secretLow: try reader.integer(), secretHigh: try reader.integer())
        try reader.finish()
        guard let role, low <= high, Int(lane) < Self.mostLanes, (1...Self.mostLanes).contains(Int(laneCount)) else {
            throw .malformedPayload(kind: .hello)
        }
        self.init(versions: low...high, role: role, lane: lane, laneCount: laneCount, features: features, session: session)
    }

    /// The newest version both speak, or nil.
    public func commonVersion(with other: ClosedRange<UInt16>) -> UInt16? {
        let version = min(versions.upperBound, other.upperBound)
        return version >= max(versions.lowerBound, other.lowerBound) ? version : nil
    }
}
