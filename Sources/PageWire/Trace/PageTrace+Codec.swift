import PageCore

// The file: magic (8 bytes), version (16 bits), flags (16: bit 0 truncated), number of regions (16), 0 (16); for each region
// log2 of its page size (8) and its pages (64); then the runs; then the CRC-32 of everything before it (32). Little endian.
//
// A run is one number, or two: zigzag of the distance from the end of the run before, doubled, plus 1 when a second number
// follows, which is its length less two. Numbers are base 128, low groups first, the top bit of a byte says that more follow
// (LEB128). Pages touched in order cost two bytes a run, scattered ones two or three a page.

extension PageTrace {
    /// The version this build writes and reads.
    public static let version = 1
    static let magic: [UInt8] = Array("PFTRACE\n".utf8)
    static let headBytes = 16
    static let regionBytes = 9
    static let checksumBytes = 4

    /// The file's bytes.
    public func encoded() -> [UInt8] {
        var encoder = TraceRunEncoder(mostBytes: .max)
        for run in runs { _ = encoder.append(run) }
        return Self.file(regions: regions, isTruncated: isTruncated, runs: encoder.bytes)
    }

    /// A file around runs that are encoded already.
    static func file(regions: [Region], isTruncated: Bool, runs: ContiguousArray<UInt8>) -> [UInt8] {
        var writer = PayloadWriter()
        for byte in magic { writer.integer(byte) }
        writer.integer(UInt16(version))
        writer.integer(UInt16(isTruncated ? 1 : 0))
        writer.integer(UInt16(regions.count))
        writer.integer(UInt16(0))
        for region in regions {
            writer.integer(region.pageSize.rawValue)
            writer.integer(UInt64(region.pageCount))
        }
        var bytes = writer.bytes
        bytes.append(contentsOf: runs)
        let checksum = CRC32.checksum(of: bytes[...])
        for shift in stride(from: 0, to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: checksum >> UInt32(shift))) }
        return bytes
    }

    /// Reads a file's bytes; whatever they are, the answer is a trace whose runs lie in its regions, or an error.
    public init(decoding bytes: [UInt8]) throws(TraceError) {
        guard bytes.count <= Self.mostBytes else { throw .tooLong(bytes: bytes.count) }
        guard bytes.starts(with: Self.magic) else { throw .notATrace }
        guard bytes.count >= Self.headBytes + Self.checksumBytes else { throw .truncatedFile }
        let version = Self.number(bytes, at: 8, byteCount: 2)
        guard version == Self.version else { throw .unknownVersion(version) }
        let body = bytes[..<(bytes.count - Self.checksumBytes)]
        guard Self.number(bytes, at: body.count, byteCount: Self.checksumBytes) == Int(CRC32.checksum(of: body)) else { throw .damaged }
        let regionCount = Self.number(bytes, at: 12, byteCount: 2)
        guard (1...RegionLayout.mostRegions).contains(regionCount) else { throw .badRegions }
        let runsOffset = Self.headBytes + regionCount * Self.regionBytes
        guard runsOffset <= body.count else { throw .truncatedFile }
        let regions = try Self.regions(bytes, count: regionCount)
        let total = regions.reduce(0) { $0 + $1.pageCount }
        let runs = try Self.runs(body[runsOffset...], totalPages: total)
        self.init(regions: regions, runs: runs, isTruncated: Self.number(bytes, at: 10, byteCount: 2) & 1 != 0)
    }

    private static func number(_ bytes: [UInt8], at offset: Int, byteCount: Int) -> Int {
        (0..<byteCount).reduce(0) { $0 | Int(bytes[offset + $1]) << (8 * $1) }
    }

    private static func regions(_ bytes: [UInt8], count: Int) throws(TraceError) -> [Region] {
        var regions: [Region] = []
        var totalBytes = 0
        for index in 0..<count {
            let offset = headBytes + index * regionBytes
            guard let pageSize = PageSize(rawValue: bytes[offset]) else { throw .badRegions }
            // The top byte would make it negative, or more than any address space.
            let pageCount = number(bytes, at: offset + 1, byteCount: 7)
            guard bytes[offset + 8] == 0, pageCount > 0, pageCount <= RegionLayout.mostBytes >> pageSize.shift else { throw .badRegions }
            totalBytes += pageCount << pageSize.shift
            guard totalBytes <= RegionLayout.mostBytes else { throw .badRegions }
            regions.append(Region(pageSize: pageSize, pageCount: pageCount))
        }
        return regions
    }

    private static func runs(_ bytes: ArraySlice<UInt8>, totalPages: Int) throws(TraceError) -> [Range<Int>] {
        var runs: [Range<Int>] = []
        var reader = bytes.makeIterator()
        var left = bytes.count
        var end = 0
        while left > 0 {
            guard runs.count < mostRuns else { throw .tooManyRuns }
            let token = try number(&reader, &left)
            let zigzag = token >> 1
            // Both fit: a number has at most 63 bits.
            let distance = Int(zigzag >> 1) ^ -Int(zigzag & 1)
            let extra = token & 1 == 0 ? 0 : try number(&reader, &left)
            guard extra <= UInt64(totalPages) else { throw .outsideRegions }
            let count = token & 1 == 0 ? 1 : Int(extra) + 2
            guard distance >= -end, distance <= totalPages - end else { throw .outsideRegions }
            let first = end + distance
            guard count <= totalPages - first else { throw .outsideRegions }
            end = first + count
            runs.append(first..<end)
        }
        return runs
    }

    private static func number(_ reader: inout ArraySlice<UInt8>.Iterator, _ left: inout Int) throws(TraceError) -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 63, by: 7) {
            guard let byte = reader.next() else { throw .truncatedFile }
            left -= 1
            value |= UInt64(byte & 0x7F) << shift
            if byte & 0x80 == 0 { return value }
        }
        throw .outsideRegions
    }
}

/// Writes runs one behind the other into room that is set aside at start.
struct TraceRunEncoder: ~Copyable, Sendable {
    /// A run takes at most two numbers of nine bytes.
    private static let mostRunBytes = 18

    private(set) var bytes: ContiguousArray<UInt8> = []
    private var count = 0
    private let mostBytes: Int
    private var end = 0

    /// - Parameter mostBytes: `.max` lets the array grow as it likes; anything else is reserved at once.
    init(mostBytes: Int) {
        self.mostBytes = mostBytes
        if mostBytes < .max { bytes.reserveCapacity(mostBytes) }
    }

    /// Allocates nothing when room was reserved.
    ///
    /// - Returns: false when there is no room for a run any more.
    mutating func append(_ run: Range<Int>) -> Bool {
        guard mostBytes - bytes.count >= Self.mostRunBytes, count < PageTrace.mostRuns else { return false }
        count += 1
        let distance = run.lowerBound - end
        let zigzag = UInt64(bitPattern: Int64((distance << 1) ^ (distance >> 63)))
        number(zigzag << 1 | (run.count > 1 ? 1 : 0))
        if run.count > 1 { number(UInt64(run.count - 2)) }
        end = run.upperBound
        return true
    }

    private mutating func number(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }
}

/// The checksum of Ethernet, gzip and PNG: reflected polynomial 0xEDB88320.
enum CRC32 {
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 0 ? value >> 1 : value >> 1 ^ 0xEDB8_8320 }
    }

    static func checksum(of bytes: ArraySlice<UInt8>) -> UInt32 {
        ~bytes.reduce(~0) { table[Int(($0 ^ UInt32($1)) & 0xFF)] ^ $0 >> 8 }
    }
}
