import PageCore

/// The regions of a session on the wire: the payload of a `regionTable` frame.
public enum RegionTable {
    /// The payload: a 16-bit count, then for each region length (64 bits), page size as a power of two (8), length of
    /// the name in bytes (8), name (UTF-8).
    public static func encode(_ layout: RegionLayout) -> [UInt8] {
        var writer = PayloadWriter()
        writer.integer(UInt16(layout.count))
        for region in layout.regions {
            writer.integer(UInt64(region.lengthBytes))
            writer.integer(region.pageSize.rawValue)
            writer.integer(UInt8(region.name.utf8.count))
            writer.text(region.name)
        }
        return writer.bytes
    }

    /// Reads a table; what it says is checked as strictly as a layout of our own.
    public static func decode(_ payload: [UInt8]) throws(FrameError) -> RegionLayout {
        var reader = PayloadReader(payload, of: .regionTable)
        let count = Int(try reader.integer(UInt16.self))
        guard count <= RegionLayout.mostRegions else { throw .malformedPayload(kind: .regionTable) }
        var regions: [RegionDescription] = []
        for _ in 0..<count {
            let lengthBytes = try reader.integer(UInt64.self)
            let pageSize = PageSize(rawValue: try reader.integer())
            let nameBytes = Int(try reader.integer(UInt8.self))
            let name = try reader.text(byteCount: nameBytes)
            guard let pageSize, lengthBytes <= UInt64(RegionLayout.mostBytes) else {
                throw .malformedPayload(kind: .regionTable)
            }
            do {
                regions.append(try RegionDescription(name: name, lengthBytes: Int(lengthBytes), pageSize: pageSize))
            } catch {
                throw .malformedPayload(kind: .regionTable)
            }
        }
        try reader.finish()
        do {
            return try RegionLayout(regions)
        } catch {
            throw .malformedPayload(kind: .regionTable)
        }
    }
}
