import PageWire

/// The fixed queue of a lane's outgoing frames, whatever carries them.
///
/// A frame passes three marks: queued (`tail`), accepted whole by the connection (`next`), free (`head`). Between the
/// last two lie frames whose memory the connection may still reference, each marked with the burst that carried it.
@safe public struct FrameQueue: ~Copyable {
    /// `@safe`: holding a payload's address does nothing; whoever sends follows it, within the owner's promise.
    @safe private struct QueuedFrame {
        var payload: UnsafeRawPointer?
        var payloadBytes = 0
        var token: UInt64 = 0
        var hasToken = false
        /// Where `copyTail` stood after this frame's copy; nil when it has none.
        var copyEnd: Int?
        /// The last burst that carried bytes of this frame.
        var burst: UInt64 = 0
    }

    /// Frames it holds; a power of two.
    public let capacity: Int
    private let frames: UnsafeMutablePointer<QueuedFrame>
    private let headers: UnsafeMutableRawPointer
    // Positions count up for ever; a position's slot is its rest by the capacity.
    private var head = 0
    /// The first frame not accepted whole, and one behind the last.
    public private(set) var next = 0
    public private(set) var tail = 0
    /// Accepted bytes of frame `next`, its header's included.
    public private(set) var nextOffset = 0
    /// Bytes queued or in the connection's hands, and not yet accepted.
    public private(set) var pendingBytes = 0

    // Copies of control payloads: a ring of bytes, freed in the order of the frames.
    private let copies: UnsafeMutableRawPointer
    private let copyCapacity: Int
    private var copyHead = 0
    private var copyTail = 0

    /// - Parameters:
    ///   - capacity: frames; a power of two.
    ///   - copyBytes: room for the copies of control payloads; at least two of the largest.
    public init(capacity: Int, copyBytes: Int) {
        precondition(capacity & (capacity - 1) == 0 && copyBytes >= 2 * FrameLimits.mostControlBytes, "a queue has its least size")
        self.capacity = capacity
        copyCapacity = copyBytes
        unsafe frames = .allocate(capacity: capacity)
        unsafe frames.initialize(repeating: QueuedFrame(), count: capacity)
        unsafe headers = .allocate(byteCount: capacity * FrameHeader.byteCount, alignment: 64)
        unsafe copies = .allocate(byteCount: copyBytes, alignment: 64)
    }

    /// Whether somebody may still read the memory: at the end it is then lost rather than handed to others.
    public var isAbandoned = false

    deinit {
        guard !isAbandoned else { return }
        unsafe frames.deallocate()
        unsafe headers.deallocate()
        unsafe copies.deallocate()
    }

    public var freeSlots: Int { capacity - (tail - head) }
    /// Nothing waits to be accepted.
    public var isDrained: Bool { next == tail }
}

// Queueing.
extension FrameQueue {
    /// See `PageTransport.submit(_:payload:token:lane:)`.
    public mutating func queue(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64) -> Bool {
        precondition(header.payloadBytes == payload.count, "a frame announces the payload it has")
        guard tail - head < capacity else { return false }
        unsafe push(
            header,
            QueuedFrame(
                payload: payload.baseAddress, payloadBytes: payload.count, token: token, hasToken: true))
        return true
    }

    /// See `PageTransport.submit(_:copying:lane:)`.
    public mutating func queue(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?) -> Bool {
        let count = unsafe payload?.count ?? 0
        precondition(header.payloadBytes == count, "a frame announces the payload it has")
        precondition(count <= FrameLimits.mostControlBytes, "only control payloads are copied")
        guard tail - head < capacity else { return false }
        var copy: UnsafeRawPointer?
        if count > 0, let payload = unsafe payload, let source = payload.baseAddress {
            guard let room = unsafe copyRoom(count) else { return false }
            // SAFETY: the room was just reserved and has `count` bytes.
            unsafe room.copyMemory(from: source, byteCount: count)
            unsafe copy = UnsafeRawPointer(room)
        }
        unsafe push(header, QueuedFrame(payload: copy, payloadBytes: count, copyEnd: count > 0 ? copyTail : nil))
        return true
    }

    private mutating func push(_ header: FrameHeader, _ frame: QueuedFrame) {
        let slot = tail & (capacity - 1)
        // SAFETY: the slot is free, so neither we nor the connection use its header or record.
        var bytes = unsafe UnsafeMutableRawBufferPointer(
            start: headers + slot * FrameHeader.byteCount, count: FrameHeader.byteCount
        ).mutableBytes
        header.encode(into: &bytes)
        unsafe frames[slot] = frame
        tail += 1
        pendingBytes += FrameHeader.byteCount + frame.payloadBytes
    }

    /// Reserves `count` bytes in one piece, nil when there is no room.
    private mutating func copyRoom(_ count: Int) -> UnsafeMutableRawPointer? {
        if copyHead == copyTail { (copyHead, copyTail) = (0, 0) }
        var position = copyTail
        let offset = position % copyCapacity
        if offset + count > copyCapacity { position += copyCapacity - offset }
        guard position + count - copyHead <= copyCapacity else { return nil }
        copyTail = position + count
        // SAFETY: the piece ends inside the ring of copies and no queued frame uses it.
        return unsafe copies + position % copyCapacity
    }
}

// Sending.
extension FrameQueue {
    /// The bytes of a queued frame's header.
    ///
    /// SAFETY: good until the frame is released.
    @unsafe public func headerBytes(at position: Int) -> UnsafeMutableRawPointer {
        precondition(position >= next && position < tail, "only waiting frames are sent")
        return unsafe headers + (position & (capacity - 1)) * FrameHeader.byteCount
    }

    /// The payload of a queued frame.
    ///
    /// SAFETY: good until the frame is released.
    @unsafe public func payload(at position: Int) -> UnsafeRawBufferPointer {
        precondition(position >= next && position < tail, "only waiting frames are sent")
        let slot = position & (capacity - 1)
        return unsafe UnsafeRawBufferPointer(start: frames[slot].payload, count: frames[slot].payloadBytes)
    }

    /// Notes that a burst carries bytes of a frame: it is not released before that burst is over.
    public mutating func mark(_ position: Int, burst: UInt64) {
        unsafe frames[position & (capacity - 1)].burst = burst
    }

    /// The connection has taken `count` bytes more.
    public mutating func accept(_ count: Int) {
        var rest = count
        pendingBytes -= count
        while rest > 0 {
            precondition(next < tail, "a connection accepts no more than it was given")
            let frameRest = unsafe FrameHeader.byteCount + frames[next & (capacity - 1)].payloadBytes - nextOffset
            if rest < frameRest {
                nextOffset += rest
                return
            }
            rest -= frameRest
            next += 1
            nextOffset = 0
        }
    }

    /// Gives back the frames that no burst from `oldestHeld` on carried, in order.
    public mutating func release<Handler: TransportHandler & ~Copyable>(
        before oldestHeld: UInt64, _ handler: inout Handler, lane: LaneIndex
    ) {
        while head < next {
            let frame = unsafe frames[head & (capacity - 1)]
            guard frame.burst < oldestHeld else { return }
            if let end = frame.copyEnd { copyHead = end }
            head += 1
            if frame.hasToken { handler.sent(frame.token, lane: lane) }
        }
    }
}
