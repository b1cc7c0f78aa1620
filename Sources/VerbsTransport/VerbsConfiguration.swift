import PageWire

/// The sizes of a `VerbsTransport`'s queues. Both ends must agree on those of messages: they are part of the protocol.
public struct VerbsConfiguration: Sendable, Hashable {
    /// The most bytes of one message. Frames are cut into messages; pages normally do not travel in them.
    static let messageBytes = 8 << 10
    /// Buffers posted for messages of the peer, which counts them down as it sends.
    static let receiveSlots = 64
    /// Messages that may be on their way.
    static let sendSlots = 32

    /// Frames a lane queues; a power of two, 2...4096.
    public var queueFrames: Int
    /// Reads and writes of the peer's memory that may be outstanding on a lane.
    public var mostOneSided: Int
    /// Room for the copies of control payloads on a lane, in bytes; at least two of the largest.
    public var copyBytes: Int
    /// How long `close` sends on.
    public var closeTimeoutNanoseconds: UInt64

    public init(
        queueFrames: Int = 256, mostOneSided: Int = 64, copyBytes: Int = 256 << 10, closeTimeoutNanoseconds: UInt64 = 1_000_000_000
    ) {
        self.queueFrames = queueFrames
        self.mostOneSided = mostOneSided
        self.copyBytes = copyBytes
        self.closeTimeoutNanoseconds = closeTimeoutNanoseconds
    }
}
