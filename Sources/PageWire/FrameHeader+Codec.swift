import PageCore

extension FrameHeader {
    /// Writes the header's 32 bytes to the start of `bytes`.
    ///
    /// - Precondition: `bytes` has room for `byteCount` bytes.
    public func encode(into bytes: inout MutableRawSpan) {
        precondition(payloadBytes >= 0 && payloadBytes <= Int(UInt32.max), "a payload fits in 32 bits")
        precondition(pageCount <= FrameLimits.mostPagesPerRange, "a page count fits in 32 bits")
        bytes.storeLittleEndian(kind.rawValue, at: 0)
        bytes.storeLittleEndian(reason.rawValue, at: 1)
        bytes.storeLittleEndian(region, at: 2)
        bytes.storeLittleEndian(UInt32(payloadBytes), at: 4)
        bytes.storeLittleEndian(UInt64(firstPage), at: 8)
        bytes.storeLittleEndian(UInt32(pageCount), at: 16)
        bytes.storeLittleEndian(sequence, at: 20)
        bytes.storeLittleEndian(argument, at: 24)
    }

    /// Reads a header from the first 32 bytes of `bytes`, and checks what can be checked without knowing the regions.
    ///
    /// - Precondition: `bytes` holds at least `byteCount` bytes.
    public init(decoding bytes: RawSpan) throws(FrameError) {
        let kindTag = bytes.loadLittleEndian(UInt8.self, at: 0)
        guard let kind = FrameKind(rawValue: kindTag) else { throw .unknownKind(kindTag) }
        let reasonTag = bytes.loadLittleEndian(UInt8.self, at: 1)
        guard let reason = PageReason(rawValue: reasonTag) else { throw .unknownReason(reasonTag) }
        let payloadBytes = Int(bytes.loadLittleEndian(UInt32.self, at: 4))
        let mostBytes = kind == .pages ? FrameLimits.mostPageBytes : FrameLimits.mostControlBytes
        guard payloadBytes <= mostBytes else { throw .payloadTooLarge(kind: kind, bytes: payloadBytes) }
        let firstPage = bytes.loadLittleEndian(UInt64.self, at: 8)
        guard firstPage <= UInt64(RegionLayout.mostBytes) else { throw .rangeOutOfBounds }
        self.init(
            kind,
            reason: reason,
            region: bytes.loadLittleEndian(UInt16.self, at: 2),
            payloadBytes: payloadBytes,
            firstPage: PageIndex(firstPage),
            pageCount: Int(bytes.loadLittleEndian(UInt32.self, at: 16)),
            sequence: bytes.loadLittleEndian(UInt32.self, at: 20),
            argument: bytes.loadLittleEndian(UInt64.self, at: 24)
        )
    }
}
