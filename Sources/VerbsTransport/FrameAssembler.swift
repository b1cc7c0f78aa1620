import PageTransport
import PageWire

/// Puts frames together from messages: a header lies whole in one message, a payload goes on over as many as it needs.
@safe struct FrameAssembler {
    private let lane: LaneIndex
    private var header = FrameHeader(.ping)
    private var isInPayload = false
    private var target: UnsafeMutableRawPointer?
    private var received = 0

    init(lane: LaneIndex) { self.lane = lane }

    /// Whether the messages so far end inside a frame.
    var isMidFrame: Bool { isInPayload }

    /// Takes bytes from `message`, from `offset` on, until its end or the end of one frame.
    ///
    /// - Returns: whether a frame is complete.
    mutating func consume<Handler: TransportHandler & ~Copyable>(
        _ message: UnsafeRawBufferPointer, from offset: inout Int, _ handler: inout Handler
    ) throws(FrameError) -> Bool {
        if !isInPayload {
            guard message.count - offset >= FrameHeader.byteCount else { throw .malformedPayload(kind: .hello) }
            // SAFETY: the bounds were just checked; the span does not outlive this call.
            let bytes = unsafe UnsafeRawBufferPointer(rebasing: message[offset..<(offset + FrameHeader.byteCount)])
            header = unsafe try FrameHeader(decoding: bytes.bytes)
            offset += FrameHeader.byteCount
            guard header.payloadBytes > 0 else {
                handler.arrived(header, lane: lane)
                return true
            }
            switch try handler.place(header, lane: lane) {
            case .memory(let memory): unsafe target = memory
            case .discard: unsafe target = nil
            }
            received = 0
            isInPayload = true
        }
        let count = min(message.count - offset, header.payloadBytes - received)
        if count > 0, let target = unsafe target, let start = message.baseAddress {
            // SAFETY: inside the message and inside the payload, whose memory the handler promised.
            unsafe (target + received).copyMemory(from: start + offset, byteCount: count)
        }
        received += count
        offset += count
        guard received == header.payloadBytes else { return false }
        isInPayload = false
        unsafe target = nil
        handler.arrived(header, lane: lane)
        return true
    }
}
