import Glibc
import PageWire

extension StreamConnection {
    /// Sends one frame and waits until the kernel has taken all of it.
    ///
    /// - Precondition: `payload` has `header.payloadBytes` bytes.
    public mutating func sendFrame(
        _ header: FrameHeader, payload: UnsafeRawBufferPointer? = nil, timeoutNanoseconds: UInt64
    ) throws(StreamError) {
        unsafe precondition(header.payloadBytes == payload?.count ?? 0, "a frame announces the payload it has")
        let deadline = Deadline(after: timeoutNanoseconds)
        var head = InlineArray<32, UInt8>(repeating: 0)
        var headSpan = head.mutableSpan
        var headBytes = unsafe headSpan.mutableBytes
        header.encode(into: &headBytes)
        // SAFETY: the header lives on this frame, which waits for each send's completion.
        try unsafe headBytes.withUnsafeBytes { (bytes) throws(StreamError) in try unsafe sendAll(bytes, deadline: deadline) }
        if let payload = unsafe payload, payload.count > 0 { unsafe try sendAll(payload, deadline: deadline) }
    }

    /// Receives one frame, its payload to the start of `payload`. Reads not a byte beyond the frame.
    ///
    /// - Throws: `.timedOut`, `.endOfStream` between frames, `.truncated` inside one, `.refused`, `.payloadTooLarge`.
    public mutating func receiveFrame(
        into payload: UnsafeMutableRawBufferPointer, timeoutNanoseconds: UInt64
    ) throws(StreamError) -> FrameHeader {
        let deadline = Deadline(after: timeoutNanoseconds)
        var head = InlineArray<32, UInt8>(repeating: 0)
        var headSpan = head.mutableSpan
        var headBytes = unsafe headSpan.mutableBytes
        // SAFETY: as for `sendFrame`.
        try unsafe headBytes.withUnsafeMutableBytes { (bytes) throws(StreamError) in
            unsafe try receiveAll(bytes, atFrameStart: true, deadline: deadline)
        }
        let header: FrameHeader
        do { header = try FrameHeader(decoding: headBytes.bytes) } catch { throw .refused(error) }
        guard header.payloadBytes <= payload.count else {
            throw .payloadTooLarge(bytes: header.payloadBytes, capacityBytes: payload.count)
        }
        if header.payloadBytes > 0 {
            let part = unsafe UnsafeMutableRawBufferPointer(rebasing: payload[..<header.payloadBytes])
            unsafe try receiveAll(part, atFrameStart: false, deadline: deadline)
        }
        return header
    }

    private mutating func sendAll(_ bytes: UnsafeRawBufferPointer, deadline: Deadline) throws(StreamError) {
        var done = 0
        while done < bytes.count {
            let rest = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
            let result = unsafe try ring.send(rawDescriptor, rest, deadline: deadline)
            guard result > 0 else { throw failure(result) }
            done += Int(result)
        }
    }

    private mutating func receiveAll(
        _ bytes: UnsafeMutableRawBufferPointer, atFrameStart: Bool, deadline: Deadline
    ) throws(StreamError) {
        var done = 0
        while done < bytes.count {
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[done...])
            let result = unsafe try ring.receive(rawDescriptor, into: rest, deadline: deadline)
            if result == 0 {
                throw atFrameStart && done == 0 ? .endOfStream(peer: peerDescription) : .truncated(peer: peerDescription)
            }
            guard result > 0 else { throw failure(result) }
            done += Int(result)
        }
    }

    private borrowing func failure(_ result: Int32) -> StreamError {
        result == -ETIME ? .timedOut(peer: peerDescription) : .connectionFailed(peer: peerDescription, errno: -result)
    }
}
