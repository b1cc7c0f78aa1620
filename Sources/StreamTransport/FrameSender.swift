import CShims
import Glibc
import PageTransport
import PageWire
import Uring

/// The sending half of a lane: queued frames are gathered into one send in flight at a time.
@safe struct FrameSender: ~Copyable {
    private var queue: FrameQueue

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
        queue = FrameQueue(capacity: capacity, copyBytes: copyBytes)
        self.mostGatherBytes = mostGatherBytes
        self.zeroCopyThresholdBytes = zeroCopyThresholdBytes
        unsafe vectors = .allocate(capacity: Self.mostVectors)
        unsafe vectors.initialize(repeating: iovec(), count: Self.mostVectors)
        unsafe message = .allocate(capacity: 1)
        unsafe message.initialize(to: msghdr())
        unsafe message.pointee.msg_iov = vectors
    }

    deinit {
        // The kernel may still read: rather lose the memory than hand it to others.
        guard !isInFlight, held == 0 else { return }
        unsafe vectors.deallocate()
        unsafe message.deallocate()
    }

    var freeSlots: Int { queue.freeSlots }
    var pendingBytes: Int { queue.pendingBytes }
    /// Nothing waits to be accepted.
    var isDrained: Bool { queue.isDrained }
    /// The kernel may reference memory of frames or payloads.
    var holdsMemory: Bool { held != 0 }
}

// Queueing.
extension FrameSender {
    // SAFETY: here and below: payloads pass through to the queue; the owner keeps them until `sent` or `closed`.
    mutating func queue(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64) -> Bool {
        unsafe queue.queue(header, payload: payload, token: token)
    }

    mutating func queue(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?) -> Bool {
        unsafe queue.queue(header, copying: payload)
    }
}

// Sending.
extension FrameSender {
    /// Whether a send can be started now.
    var canStart: Bool { !isInFlight && !queue.isDrained && gather - oldestHeld < 64 }

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
        queue.isAbandoned = true
    }

    /// Describes the frames from `next` on, within the limits of one send.
    ///
    /// - Returns: the bytes described, at least one.
    private mutating func fillVectors() -> Int {
        var used = 0
        var bytes = 0
        var position = queue.next
        var skip = queue.nextOffset
        // A frame takes at most two vectors.
        while position < queue.tail, used + 2 <= Self.mostVectors, bytes < mostGatherBytes {
            queue.mark(position, burst: gather)
            if skip < FrameHeader.byteCount {
                let base = unsafe queue.headerBytes(at: position) + skip
                unsafe addVector(base, FrameHeader.byteCount - skip, used: &used)
                bytes += FrameHeader.byteCount - skip
                skip = FrameHeader.byteCount
            }
            let whole = unsafe queue.payload(at: position)
            let payloadSkip = skip - FrameHeader.byteCount
            let rest = whole.count - payloadSkip
            if rest > 0, let payload = whole.baseAddress {
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
            queue.accept(Int(completion.result))
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
        queue.isAbandoned = isInFlight || held != 0
    }

    /// Gives back the frames whose memory nobody references any more, in order.
    mutating func release<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, lane: LaneIndex) {
        queue.release(before: oldestHeld, &handler, lane: lane)
    }
}
