import CShims
import Glibc
import PageTransport
import PageWire
import Uring

/// The sending half of a lane: a fixed queue of frames, gathered into one send in flight at a time.
///
/// A frame passes three marks: queued (`tail`), accepted whole by the connection (`next`), free (`head`). Between the
/// last two lie frames whose memory a zero-copy send still references.
@safe struct FrameSender: ~Copyable {
    /// `@safe`: holding a payload's address does nothing; only the kernel follows it, within the owner's promise.
    @safe private struct QueuedFrame {
        var payload: UnsafeRawPointer?
        var payloadBytes = 0
        var token: UInt64 = 0
        var hasToken = false
        /// Where `copyTail` stood after this frame's copy; nil when it has none.
        var copyEnd: Int?
        /// The last send that carried bytes of this frame.
        var gather: UInt64 = 0
    }

    let capacity: Int
    private let frames: UnsafeMutablePointer<QueuedFrame>
    private let headers: UnsafeMutableRawPointer
    // Positions count up for ever; a position's slot is its rest by the capacity.
    private var head = 0
    private var next = 0
    private var tail = 0
    /// Accepted bytes of frame `next`.
    private var nextOffset = 0
    /// Bytes queued or in the kernel's hands, and not yet accepted by the connection.
    private(set) var pendingBytes = 0

    // Copies of control payloads: a ring of bytes, freed in the order of the frames.
    private let copies: UnsafeMutableRawPointer
    private let copyCapacity: Int
    private var copyHead = 0
    private var copyTail = 0

    private let message: UnsafeMutablePointer<msghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private static let mostVectors = 64
    /// The most bytes handed to the kernel in one send.
    var mostGatherBytes: Int

    // Sends are numbered. Bit n % 64 of `held` is set while send n may reference memory.
    private(set) var isInFlight = false
    private var gather: UInt64 = 0
    private var oldestHeld: UInt64 = 0
    private var held: UInt64 = 0
    private var zeroCopyThresholdBytes: Int
    /// Sends that went without the kernel's copy, and those of them the kernel reported as copied after all.
    private(set) var zeroCopySends = 0
    private(set) var zeroCopyCopied = 0

    init(capacity: Int, copyBytes: Int, mostGatherBytes: Int, zeroCopyThresholdBytes: Int) {
        self.capacity = capacity
        self.mostGatherBytes = mostGatherBytes
        self.zeroCopyThresholdBytes = zeroCopyThresholdBytes
        copyCapacity = copyBytes
        unsafe frames = .allocate(capacity: capacity)
        unsafe frames.initialize(repeating: QueuedFrame(), count: capacity)
        unsafe headers = .allocate(byteCount: capacity * FrameHeader.byteCount, alignment: 64)
        unsafe copies = .allocate(byteCount: copyBytes, alignment: 64)
        unsafe vectors = .allocate(capacity: Self.mostVectors)
        unsafe vectors.initialize(repeating: iovec(), count: Self.mostVectors)
        unsafe message = .allocate(capacity: 1)
        unsafe message.initialize(to: msghdr())
        unsafe message.pointee.msg_iov = vectors
    }

    deinit {
        // The kernel may still read: rather lose the memory than hand it to others.
        guard !isInFlight, held == 0 else { return }
        unsafe frames.deallocate()
        unsafe headers.deallocate()
        unsafe copies.deallocate()
        unsafe vectors.deallocate()
        unsafe message.deallocate()
    }

    var freeSlots: Int { capacity - (tail - head) }
    /// Nothing waits to be accepted.
    var isDrained: Bool { next == tail }
    /// The kernel may reference memory of frames or payloads.
    var holdsMemory: Bool { held != 0 }
}

// Queueing.
extension FrameSender {
    mutating func queue(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64) -> Bool {
        precondition(header.payloadBytes == payload.count, "a frame announces the payload it has")
        guard tail - head < capacity else { return false }
        unsafe push(
            header,
            QueuedFrame(
                payload: payload.baseAddress, payloadBytes: payload.count, token: token, hasToken: true))
        return true
    }

    mutating func queue(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?) -> Bool {
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
        // SAFETY: the slot is free, so neither we nor the kernel use its header or record.
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
extension FrameSender {
    /// Whether a send can be started now.
    var canStart: Bool { !isInFlight && next < tail && gather - oldestHeld < 64 }

    /// Prepares one send of as many queued frames as fit.
    mutating func start(
        _ descriptor: Int32, lane: LaneIndex, ring: inout Ring
    ) throws(UringError) {
        let bytes = fillVectors()
        let token = OperationToken(.send, index: Int(lane.rawValue), number: gather).rawValue
        // MSG_WAITALL lets the kernel go on after a full send buffer by itself, instead of reporting a short send.
        let flags = Int32(MSG_NOSIGNAL) | Int32(MSG_WAITALL)
        if bytes >= zeroCopyThresholdBytes {
            unsafe try ring.sendMessageZeroCopy(descriptor, message, flags: flags, reportsUsage: true, token: token)
            zeroCopySends += 1
        } else {
            unsafe try ring.sendMessage(descriptor, message, flags: flags, token: token)
        }
        held |= 1 << (gather & 63)
        gather += 1
        isInFlight = true
    }

    /// Describes the frames from `next` on, within the limits of one send.
    ///
    /// - Returns: the bytes described, at least one.
    private mutating func fillVectors() -> Int {
        var used = 0
        var bytes = 0
        var position = next
        var skip = nextOffset
        // A frame takes at most two vectors.
        while position < tail, used + 2 <= Self.mostVectors, bytes < mostGatherBytes {
            let slot = position & (capacity - 1)
            unsafe frames[slot].gather = gather
            if skip < FrameHeader.byteCount {
                let base = unsafe headers + (slot * FrameHeader.byteCount + skip)
                unsafe addVector(base, FrameHeader.byteCount - skip, used: &used)
                bytes += FrameHeader.byteCount - skip
                skip = FrameHeader.byteCount
            }
            let payloadSkip = skip - FrameHeader.byteCount
            let rest = unsafe frames[slot].payloadBytes - payloadSkip
            if rest > 0, let payload = unsafe frames[slot].payload {
                let count = min(rest, max(mostGatherBytes - bytes, Self.leastPieceBytes))
                // SAFETY: the kernel only reads what a send describes; the vector's type has no const.
                unsafe addVector(UnsafeMutableRawPointer(mutating: payload + payloadSkip), count, used: &used)
                bytes += count
                if count < rest { break }
            }
            position += 1
            skip = 0
        }
        unsafe message.pointee.msg_iovlen = used
        return bytes
    }

    /// A payload is not cut into pieces smaller than a page for the sake of the limit.
    private static var leastPieceBytes: Int { 4096 }

    /// Headers of frames without payload lie side by side: neighbours share one vector.
    private func addVector(_ base: UnsafeMutableRawPointer, _ count: Int, used: inout Int) {
        // SAFETY: `used` stays below the vectors' capacity; the caller checked.
        if used > 0, let last = unsafe vectors[used - 1].iov_base, unsafe last + vectors[used - 1].iov_len == base {
            unsafe vectors[used - 1].iov_len += count
        } else {
            unsafe vectors[used] = iovec(iov_base: base, iov_len: count)
            used += 1
        }
    }

    /// A send has ended: `result` bytes were accepted.
    ///
    /// - Parameter number: the send's number, from its token.
    /// - Returns: 0, or the error number the connection failed with.
    mutating func completed(_ completion: Completion, number: UInt64) -> Int32 {
        isInFlight = false
        if !completion.hasMore { free(number) }
        switch -completion.result {
        case let failure where failure > 0:
            if failure == EAGAIN || failure == EINTR { return 0 }
            // The kernel or the socket cannot do without the copy, or has no room for the notification.
            if zeroCopyThresholdBytes != .max, failure == EOPNOTSUPP || failure == ENOMEM || failure == ENOBUFS || failure == EINVAL {
                zeroCopyThresholdBytes = .max
                return 0
            }
            return failure
        default:
            accept(Int(completion.result))
            return 0
        }
    }

    /// The memory of a zero-copy send is free again.
    mutating func notified(_ completion: Completion, number: UInt64) {
        if completion.wasCopied {
            zeroCopyCopied += 1
            zeroCopyThresholdBytes = .max
        }
        free(number)
    }

    private mutating func free(_ number: UInt64) {
        held &= ~(1 << (number & 63))
        while oldestHeld < gather, held & (1 << (oldestHeld & 63)) == 0 { oldestHeld += 1 }
    }

    private mutating func accept(_ count: Int) {
        var rest = count
        pendingBytes -= count
        while rest > 0 {
            precondition(next < tail, "the kernel accepts no more than it was given")
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

    /// Gives back the frames whose memory nobody references any more, in order.
    mutating func release<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, lane: LaneIndex) {
        while head < next {
            let frame = unsafe frames[head & (capacity - 1)]
            guard frame.gather < oldestHeld else { return }
            if let end = frame.copyEnd { copyHead = end }
            head += 1
            if frame.hasToken { handler.sent(frame.token, lane: lane) }
        }
    }
}
