import PageCore

/// Tells, page by page, what memory holds: a hole of its file, zeros, or data. For memory that does not change meanwhile.
///
/// Never reads a hole through the mapping, which would allocate it: a tmpfs file is asked with SEEK_DATA, a hugetlbfs
/// file, which does not tell, is read with pread. Knows the extent it found last, so that a walk costs two system
/// calls an extent and not a page. Allocates nothing after its init.
public struct ContentScanner: ~Copyable {
    /// What a page holds.
    public enum Content: Sendable, Hashable {
        /// Nothing was ever allocated: reads as zero.
        case hole
        /// Allocated, or not known to be a hole, and zero.
        case zero
        /// At least one byte is not zero.
        case data
    }

    /// Pages, from a position on, that hold the same.
    public struct Run: Sendable, Hashable {
        public let content: Content
        public let first: PageIndex
        /// At least one.
        public let count: Int

        public init(content: Content, first: PageIndex, count: Int) {
            precondition(count > 0, "a run is not empty")
            self.content = content
            self.first = first
            self.count = count
        }
    }

    /// How much a page of hugetlbfs is read at once: a piece that stays in the second-level cache.
    private static let scratchBytes = 128 << 10

    private let fileOffset: Int
    private let pageShift: Int
    /// The extent of the file asked for last: bytes before `dataStart`, from `knownFrom` on, are a hole.
    private var knownFrom = 0
    private var dataStart = 0
    private var dataEnd = 0
    private var scratch: MappedMemory?

    /// For a mapping that begins at `fileOffset` of `file`, in pages of `pageSize`, which may be larger than the file's own.
    public init(
        file: borrowing MemoryFile, fileOffset: Int = 0, pageSize: PageSize
    ) throws(HostMemoryError) {
        self.fileOffset = fileOffset
        pageShift = pageSize.shift
        scratch = nil
        if file.isHugetlbfs { scratch = try MappedMemory(anonymousBytes: Self.scratchBytes) }
    }

    /// What the page at `first` holds and for how long that goes on, at most `count` pages.
    ///
    /// At most `mostScanned` pages are looked at one by one; a hole may be longer. O(length of the run).
    public mutating func nextRun(
        from first: PageIndex, count: Int, mostScanned: Int, file: borrowing MemoryFile, memory: borrowing MappedMemory
    ) throws(HostMemoryError) -> Run {
        precondition(first >= 0 && count > 0 && mostScanned > 0, "a scan has at least one page")
        let end = first + count
        let holeEnd = try holeEnd(from: first, to: end, file: file)
        if holeEnd > first { return Run(content: .hole, first: first, count: holeEnd - first) }
        let firstIsZero = try isZero(first, file: file, memory: memory)
        let limit = min(end, first + mostScanned)
        var page = first + 1
        while page < limit, try self.holeEnd(from: page, to: page + 1, file: file) == page,
            try isZero(page, file: file, memory: memory) == firstIsZero
        { page += 1 }
        return Run(content: firstIsZero ? .zero : .data, first: first, count: page - first)
    }

    /// The first run of pages in [first, first + count) that are holes, by SEEK_DATA alone; nil when there is none.
    /// On hugetlbfs always nil.
    public mutating func firstHole(
        from first: PageIndex, count: Int, file: borrowing MemoryFile
    ) throws(HostMemoryError) -> Range<PageIndex>? {
        let end = first + count
        var page = first
        // Each turn steps over one extent of data, hence over at least one page.
        while page < end {
            let holeEnd = try holeEnd(from: page, to: end, file: file)
            if holeEnd > page { return page..<holeEnd }
            page = max(page + 1, roundedUp(dataEnd - fileOffset))
        }
        return nil
    }

    /// Forgets what it knows of the file's extents; to be called when they have changed.
    public mutating func forget() {
        (knownFrom, dataStart, dataEnd) = (0, 0, 0)
    }

    /// The end of the hole the page `first` lies in, at most `end`; `first` when the page has data.
    private mutating func holeEnd(
        from first: PageIndex, to end: PageIndex, file: borrowing MemoryFile
    ) throws(HostMemoryError) -> PageIndex {
        if scratch != nil { return first }
        let offset = fileOffset + first << pageShift
        if offset < knownFrom || offset >= dataEnd {
            knownFrom = offset
            if let run = try file.nextDataRun(from: offset) {
                (dataStart, dataEnd) = (run.lowerBound, run.upperBound)
            } else {
                (dataStart, dataEnd) = (.max, .max)
            }
        }
        // A page is a hole only when all of it is: data may begin within it.
        guard dataStart > offset else { return first }
        guard dataStart != .max else { return end }
        return min(end, (dataStart - fileOffset) >> pageShift)
    }

    private mutating func isZero(
        _ page: PageIndex, file: borrowing MemoryFile, memory: borrowing MappedMemory
    ) throws(HostMemoryError) -> Bool {
        let bytes = page << pageShift..<(page + 1) << pageShift
        if scratch != nil {
            return try file.readsAsZero(fileOffset + bytes.lowerBound..<fileOffset + bytes.upperBound, scratch: &scratch!)
        }
        return memory.withBytes(bytes) { $0.isZero }
    }

    private func roundedUp(_ bytes: Int) -> PageIndex {
        bytes >= Int.max - (1 << pageShift) ? .max : (bytes + (1 << pageShift) - 1) >> pageShift
    }
}
