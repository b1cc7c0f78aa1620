import PageCore

/// A run of the source's pages that the destination may read with RDMA, and how it names them to its device.
public struct RegionKey: Sendable, Hashable {
    public var range: PageRange
    /// Where the first page lies in the source's memory.
    public var address: UInt64
    /// The registration's remote key.
    public var key: UInt32

    public init(range: PageRange, address: UInt64, key: UInt32) {
        self.range = range
        self.address = address
        self.key = key
    }
}

/// Keys on the wire: the payload of a `regionKeys` frame.
public enum RegionKeys {
    /// The most keys of one frame.
    public static let mostKeys = FrameLimits.mostControlBytes / entryBytes

    private static let entryBytes = 32

    /// The payload: for each key region (16 bits), reserved (16), key (32), first page (64), pages (64), address (64).
    public static func encode(_ keys: ArraySlice<RegionKey>) -> [UInt8] {
        precondition(keys.count <= mostKeys, "a frame holds \(mostKeys) keys")
        var writer = PayloadWriter()
        for key in keys {
            writer.integer(key.range.region)
            writer.integer(UInt16(0))
            writer.integer(key.key)
            writer.integer(UInt64(key.range.first))
            writer.integer(UInt64(key.range.count))
            writer.integer(key.address)
        }
        return writer.bytes
    }

    /// Reads keys; whether their ranges lie in the layout is the caller's to check.
    public static func decode(_ payload: [UInt8]) throws(FrameError) -> [RegionKey] {
        guard payload.count % entryBytes == 0 else { throw .malformedPayload(kind: .regionKeys) }
        var reader = PayloadReader(payload, of: .regionKeys)
        var keys: [RegionKey] = []
        for _ in 0..<(payload.count / entryBytes) {
            let region = try reader.integer(RegionIndex.self)
            _ = try reader.integer(UInt16.self)
            let key = try reader.integer(UInt32.self)
            let first = try reader.integer(UInt64.self)
            let count = try reader.integer(UInt64.self)
            let address = try reader.integer(UInt64.self)
            let most = UInt64(RegionLayout.mostBytes)
            guard first <= most, count > 0, count <= most else { throw .malformedPayload(kind: .regionKeys) }
            keys.append(
                RegionKey(
                    range: PageRange(region: region, first: PageIndex(first), count: Int(count)), address: address, key: key))
        }
        try reader.finish()
        return keys
    }
}

/// Memory of the destination that the source may write to: the payload of a `grant` frame.
public struct WriteTarget: Sendable, Hashable {
    public var address: UInt64
    public var key: UInt32

    public init(address: UInt64, key: UInt32) {
        self.address = address
        self.key = key
    }

    /// The payload: address (64 bits), key (32), reserved (32).
    public func encoded() -> [UInt8] {
        var writer = PayloadWriter()
        writer.integer(address)
        writer.integer(key)
        writer.integer(UInt32(0))
        return writer.bytes
    }

    public init(decoding payload: [UInt8]) throws(FrameError) {
        var reader = PayloadReader(payload, of: .grant)
        address = try reader.integer()
        key = try reader.integer()
        _ = try reader.integer(UInt32.self)
        try reader.finish()
    }
}
