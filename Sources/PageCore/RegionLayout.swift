/// One run of guest memory as both hosts know it: a RAM block, a memory file, a mapping.
public struct RegionDescription: Sendable, Hashable {
    /// The longest accepted name, in bytes of UTF-8.
    public static let longestNameBytes = 255

    /// A name for people and logs ("ram", "node0"); not an identity: regions are matched by their order.
    public let name: String
    /// The length in bytes, a whole number of pages.
    public let lengthBytes: Int
    public let pageSize: PageSize

    public init(name: String, lengthBytes: Int, pageSize: PageSize) throws(RegionLayoutError) {
        guard name.utf8.count <= Self.longestNameBytes else { throw .nameTooLong(bytes: name.utf8.count) }
        guard name.withoutControls == name else { throw .unprintableName(name.withoutControls) }
        guard lengthBytes > 0, lengthBytes & (pageSize.bytes - 1) == 0 else {
            throw .unalignedLength(name: name, lengthBytes: lengthBytes, pageSizeBytes: pageSize.bytes)
        }
        self.name = name
        self.lengthBytes = lengthBytes
        self.pageSize = pageSize
    }

    /// The number of pages.
    public var pageCount: Int { lengthBytes >> pageSize.shift }
}

/// The regions of one session, in the order both hosts agree on.
public struct RegionLayout: Sendable, Hashable {
    /// The most regions a session may have.
    public static let mostRegions = 256
    /// The most bytes a session may have in all its regions: the 57-bit address space of today's largest hosts.
    public static let mostBytes = 1 << 56

    public let regions: [RegionDescription]
    /// The bytes of all regions together.
    public let totalBytes: Int
    /// For each region the *session page number* of its first page: pages numbered through all regions in order, so
    /// that one bitmap serves a session.
    @usableFromInline let firstSessionPages: [Int]
    /// By region, beside the descriptions: looking at a description counts references to its name.
    @usableFromInline let pageShifts: [Int]
    @usableFromInline let pageCounts: [Int]
    /// The pages of all regions together.
    public let totalPages: Int

    public init(_ regions: [RegionDescription]) throws(RegionLayoutError) {
        guard !regions.isEmpty else { throw .noRegions }
        guard regions.count <= Self.mostRegions else { throw .tooManyRegions(count: regions.count) }
        var bytes = 0
        var pages = 0
        var firstPages: [Int] = []
        for region in regions {
            guard region.lengthBytes <= Self.mostBytes - bytes else { throw .tooLarge }
            bytes += region.lengthBytes
            firstPages.append(pages)
            pages += region.pageCount
        }
        self.regions = regions
        totalBytes = bytes
        totalPages = pages
        firstSessionPages = firstPages
        pageShifts = regions.map(\.pageSize.shift)
        pageCounts = regions.map(\.pageCount)
    }

    public var count: Int { regions.count }

    @inlinable
    public subscript(_ index: RegionIndex) -> RegionDescription { regions[Int(index)] }

    /// The binary logarithm of a region's page size in bytes.
    @inlinable
    public func pageShift(_ index: RegionIndex) -> Int { pageShifts[Int(index)] }

    /// The bytes of `count` pages of a region.
    @inlinable
    public func byteCount(_ index: RegionIndex, pages count: Int) -> Int { count << pageShifts[Int(index)] }

    /// The bytes of a range.
    @inlinable
    public func byteCount(_ range: PageRange) -> Int { range.count << pageShifts[Int(range.region)] }

    /// The session page numbers of `range`, which lies inside its region.
    @inlinable
    public func sessionPages(_ range: PageRange) -> Range<Int> {
        let first = firstSessionPages[Int(range.region)] + range.first
        return first..<(first + range.count)
    }

    /// The session page number of one page.
    @inlinable
    public func sessionPage(_ region: RegionIndex, _ page: PageIndex) -> Int {
        firstSessionPages[Int(region)] + page
    }

    /// The region that holds a session page number. O(regions).
    @inlinable
    public func region(ofSessionPage page: Int) -> RegionIndex {
        precondition(page >= 0 && page < totalPages, "a session page number lies in its layout")
        return RegionIndex(firstSessionPages.lastIndex { $0 <= page } ?? 0)
    }

    /// The pages behind a run of session page numbers, which lies in one region.
    @inlinable
    public func range(_ region: RegionIndex, sessionPages: Range<Int>) -> PageRange {
        PageRange(
            region: region, first: sessionPages.lowerBound - firstSessionPages[Int(region)], count: sessionPages.count)
    }

    /// All pages of a region.
    @inlinable
    public func wholeRange(_ region: RegionIndex) -> PageRange {
        PageRange(region: region, first: 0, count: pageCounts[Int(region)])
    }

    /// Whether `range` lies wholly inside its region.
    @inlinable
    public func contains(_ range: PageRange) -> Bool {
        Int(range.region) < pageCounts.count && range.end <= pageCounts[Int(range.region)]
    }
}

/// Why a description of memory was refused.
public enum RegionLayoutError: Error, Sendable, Hashable {
    case noRegions
    case tooManyRegions(count: Int)
    case tooLarge
    case nameTooLong(bytes: Int)
    /// The name as it can be printed.
    case unprintableName(String)
    case unalignedLength(name: String, lengthBytes: Int, pageSizeBytes: Int)
}

extension RegionLayoutError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .noRegions:
            "no memory regions were given; hand over at least one"
        case .tooManyRegions(let count):
            "\(count) memory regions were given; at most \(RegionLayout.mostRegions) are supported in one session"
        case .tooLarge:
            "the memory regions together exceed \(RegionLayout.mostBytes) bytes, more than an address space holds"
        case .nameTooLong(let bytes):
            "a region's name has \(bytes) bytes; at most \(RegionDescription.longestNameBytes) are allowed"
        case .unprintableName(let name):
            "the name of region '\(name)' holds line ends or other control characters; a name is for people and logs"
        case .unalignedLength(let name, let lengthBytes, let pageSizeBytes):
            "region '\(name)' has \(lengthBytes) bytes, which is not a positive multiple of its \(pageSizeBytes)-byte page"
        }
    }
}
