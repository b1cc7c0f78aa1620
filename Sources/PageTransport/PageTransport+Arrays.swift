import PageWire

extension PageTransport where Self: ~Copyable {
    /// Queues a control frame with a payload that is copied. Control path: the array is the caller's.
    ///
    /// - Returns: false when it cannot be queued now.
    public mutating func submit(_ header: FrameHeader, copying payload: [UInt8], lane: LaneIndex) -> Bool {
        // SAFETY: the transport copies the bytes during the call.
        unsafe payload.withUnsafeBytes { bytes in unsafe submit(header, copying: bytes, lane: lane) }
    }

    /// Queues a frame without a payload.
    ///
    /// - Returns: false when it cannot be queued now.
    public mutating func submit(_ header: FrameHeader, lane: LaneIndex) -> Bool {
        unsafe submit(header, copying: nil, lane: lane)
    }
}
