import CShims
import Glibc
import PageTransport
import PageWire
import Uring

/// The receiving half of a lane: bytes in, frames out, payloads straight to where the handler wants them.
///
/// One receive is in flight at a time. Between frames it fills the read-ahead buffer; inside a payload it fills the
/// rest of the payload in its place and, with what the same call brings beyond, the buffer with the next headers.
@safe struct FrameReceiver: ~Copyable {
    private let lane: LaneIndex
    /// The most bytes one receive takes.
    var mostReceiveBytes: Int

    // Read-ahead: bytes `start..<end` of `buffer` are unread.
    private let buffer: UnsafeMutableRawPointer
    private let capacity: Int
    private var start = 0
    private var end = 0

    // The frame at hand, when `isInPayload`: `received` of its payload bytes are where they belong.
    private var header = FrameHeader(.ping)
    private var isInPayload = false
    private var target: UnsafeMutableRawPointer?
    private var received = 0

    /// Where dropped payload bytes go; nobody reads it.
    private let scratch: UnsafeMutableRawPointer
    private static let scratchBytes = 64 << 10

    private let message: UnsafeMutablePointer<msghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    /// How many bytes of the receive in flight belong to the payload.
    private var payloadPart = 0
    private(set) var isInFlight = false

    init(lane: LaneIndex, readAheadBytes: Int, mostReceiveBytes: Int) {
        self.lane = lane
        self.mostReceiveBytes = mostReceiveBytes
        capacity = readAheadBytes
        unsafe buffer = .allocate(byteCount: readAheadBytes, alignment: 64)
        unsafe scratch = .allocate(byteCount: Self.scratchBytes, alignment: 64)
        unsafe vectors = .allocate(capacity: 2)
        unsafe vectors.initialize(repeating: iovec(), count: 2)
        unsafe message = .allocate(capacity: 1)
        unsafe message.initialize(to: msghdr())
        unsafe message.pointee.msg_iov = vectors
        unsafe message.pointee.msg_iovlen = 2
    }

    deinit {
        // The kernel may write for as long as a receive is in flight: rather lose the memory than hand it to others.
        guard !isInFlight else { return }
        unsafe buffer.deallocate()
        unsafe scratch.deallocate()
        unsafe vectors.deallocate()
        unsafe message.deallocate()
    }

    /// Whether the stream stands inside a frame, where it must not end.
    var isMidFrame: Bool { isInPayload || end > start }

    /// Prepares the next receive.
    mutating func arm(_ descriptor: Int32, token: UInt64, ring: inout Ring) throws(UringError) {
        assert(!isInFlight, "one receive is in flight at a time")
        if let place = unsafe nextPlace() {
            // SAFETY: it is not touched until the completion.
            unsafe try ring.receive(descriptor, into: place, flags: 0, token: token)
        } else {
            unsafe try ring.receiveMessage(descriptor, message, flags: 0, token: token)
        }
        isInFlight = true
    }

    /// Receives what is there, by a call of its own in place of the ring.
    ///
    /// - Returns: as the completion of a receive says.
    mutating func receiveNow(_ descriptor: Int32) -> Int32 {
        assert(!isInFlight, "one receive is in flight at a time")
        let place = unsafe nextPlace()
        // SAFETY: as for `arm`; the kernel is done with the memory when the call returns.
        return systemCall {
            let count = unsafe place.map { unsafe recv(descriptor, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT)) }
            return unsafe Int32(truncatingIfNeeded: count ?? recvmsg(descriptor, message, Int32(MSG_DONTWAIT)))
        }
    }

    /// Where the next bytes go: one run of memory, or nil when `message` describes two.
    private mutating func nextPlace() -> UnsafeMutableRawBufferPointer? {
        guard isInPayload else {
            payloadPart = 0
            // SAFETY: the free end of the buffer.
            return unsafe UnsafeMutableRawBufferPointer(start: buffer + end, count: capacity - end)
        }
        let rest = header.payloadBytes - received
        payloadPart = min(rest, mostReceiveBytes)
        // SAFETY: the handler promised the target for the payload's length until `arrived` or `closed`.
        var place = unsafe target.map { unsafe $0 + received } ?? scratch
        if unsafe target == nil {
            payloadPart = min(payloadPart, Self.scratchBytes)
            unsafe place = scratch
        }
        if payloadPart < rest { return unsafe UnsafeMutableRawBufferPointer(start: place, count: payloadPart) }
        // What was read ahead has been used up before a payload is received in place: the whole buffer is free.
        unsafe vectors[0] = iovec(iov_base: place, iov_len: payloadPart)
        unsafe vectors[1] = iovec(iov_base: buffer, iov_len: capacity)
        return nil
    }

    /// A receive ended without bytes.
    mutating func finished() { isInFlight = false }

    /// A receive brought `count` bytes: hands on the frames they complete.
    mutating func completed<Handler: TransportHandler & ~Copyable>(
        count: Int, handler: inout Handler
    ) throws(FrameError) {
        isInFlight = false
        let ofPayload = min(count, payloadPart)
        received += ofPayload
        end += count - ofPayload
        precondition(end <= capacity, "the kernel fills no more than it was given")
        try consume(&handler)
        compact()
    }

    /// A receive brought bytes nobody wants any more, while the lane closes.
    mutating func dropped(count: Int) {
        isInFlight = false
        start = 0
        end = 0
        header.payloadBytes = .max
        unsafe target = nil
        received = 0
        isInPayload = true
    }

    private mutating func consume<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) throws(FrameError) {
        while true {
            if isInPayload {
                takeReadAhead()
                guard received == header.payloadBytes else { return }
                isInPayload = false
                unsafe target = nil
                handler.arrived(header, lane: lane)
            } else {
                guard end - start >= FrameHeader.byteCount else { return }
                try takeHeader(&handler)
            }
        }
    }

    private mutating func takeHeader<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) throws(FrameError) {
        // SAFETY: at least a header's bytes are unread; the span does not outlive this function.
        let bytes = unsafe UnsafeRawBufferPointer(start: buffer + start, count: FrameHeader.byteCount)
        header = unsafe try FrameHeader(decoding: bytes.bytes)
        start += FrameHeader.byteCount
        guard header.payloadBytes > 0 else { return handler.arrived(header, lane: lane) }
        switch try handler.place(header, lane: lane) {
        case .memory(let memory): unsafe target = memory
        case .discard: unsafe target = nil
        }
        received = 0
        isInPayload = true
    }

    /// Moves what was read ahead of the payload at hand to its place.
    private mutating func takeReadAhead() {
        let count = min(end - start, header.payloadBytes - received)
        guard count > 0 else { return }
        if let target = unsafe target {
            // SAFETY: `count` is within the unread bytes and within the rest of the payload.
            unsafe (target + received).copyMemory(from: buffer + start, byteCount: count)
        }
        received += count
        start += count
    }

    /// Brings unread bytes (less than a header, or none) to the buffer's start.
    private mutating func compact() {
        if end > start, start > 0 {
            // SAFETY: both ranges lie in the buffer; memmove allows overlap.
            unsafe memmove(buffer, buffer + start, end - start)
        }
        end -= start
        start = 0
    }
}
