import PageWire

/// The sizes of a `StreamTransport`'s queues and bursts. Everything is allocated once, at `init`.
public struct StreamConfiguration: Sendable, Hashable {
    /// Frames a lane queues; a power of two, 2...4096.
    public var queueFrames: Int
    /// Bytes read ahead of the frame at hand on the urgent lane, at least a header (32). Bytes read ahead pass through
    /// a buffer and are copied to their place: a source, which gets many small requests, takes some KiB; a destination
    /// takes 32, so that payloads never pass through, or a little over one page and a header.
    public var urgentReadAheadBytes: Int
    /// The same for bulk lanes.
    public var bulkReadAheadBytes: Int
    /// The most bytes one receive takes, so that a huge one cannot hold the loop for long.
    public var mostReceiveBytes: Int
    /// The most bytes handed to the kernel in one send: on a source whose link is as fast as its processor (loopback), an
    /// urgent frame waits for about half of one. 32 KiB halves that wait against 128 KiB and costs a quarter of the rate.
    public var mostGatherBytes: Int
    /// Room for the copies of control payloads on a lane, in bytes; at least two of the largest.
    public var copyBytes: Int
    /// Sends of a bulk lane of at least so many bytes go without the kernel's copy, where kernel and link can; `Int.max`
    /// switches it off. It is given up on a lane whose kernel reports that it copied after all (loopback).
    public var zeroCopyThresholdBytes: Int
    /// The most unsent bytes the kernel holds ahead of the next urgent frame (TCP_NOTSENT_LOWAT); 0 leaves it alone.
    public var urgentUnsentBytes: Int
    /// How long `close` sends on.
    public var closeTimeoutNanoseconds: UInt64

    public init(
        queueFrames: Int = 256,
        urgentReadAheadBytes: Int = 8 << 10,
        bulkReadAheadBytes: Int = FrameHeader.byteCount,
        mostReceiveBytes: Int = 128 << 10,
        mostGatherBytes: Int = 128 << 10,
        copyBytes: Int = 256 << 10,
        zeroCopyThresholdBytes: Int = 64 << 10,
        urgentUnsentBytes: Int = 64 << 10,
        closeTimeoutNanoseconds: UInt64 = 1_000_000_000
    ) {
        self.queueFrames = queueFrames
        self.urgentReadAheadBytes = urgentReadAheadBytes
        self.bulkReadAheadBytes = bulkReadAheadBytes
        self.mostReceiveBytes = mostReceiveBytes
        self.mostGatherBytes = mostGatherBytes
        self.copyBytes = copyBytes
        self.zeroCopyThresholdBytes = zeroCopyThresholdBytes
        self.urgentUnsentBytes = urgentUnsentBytes
        self.closeTimeoutNanoseconds = closeTimeoutNanoseconds
    }

    /// Traps on values no transport can work with.
    func check() {
        precondition(
            queueFrames >= 2 && queueFrames <= 4096 && queueFrames & (queueFrames - 1) == 0, "a queue has 2...4096 frames, a power of two")
        precondition(min(urgentReadAheadBytes, bulkReadAheadBytes) >= FrameHeader.byteCount, "the read-ahead holds a header")
        precondition(mostReceiveBytes >= 4096 && mostGatherBytes >= 4096, "a burst holds a page")
        precondition(copyBytes >= 2 * FrameLimits.mostControlBytes, "copies have room for the largest control payload")
    }
}
