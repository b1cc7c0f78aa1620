import PageCore

/// The holes of a memory file as they were when it was walked.
///
/// A walk costs 20 ns a page of data (SEEK_HOLE steps over every page): 7 ms for 350 MiB, half a second for 32 GiB. So it is
/// made once, ahead of the moment that matters, and each hole is checked again when it is used: a hole may have been
/// filled since, which SEEK_DATA tells in a microsecond.
public struct HoleMap: Sendable {
    /// Runs of pages, ascending, that were holes.
    public let holes: [Range<PageIndex>]

    /// No holes are known: every page is looked at.
    public static let empty = HoleMap(holes: [])

    /// Holes that were found otherwise: runs of pages, ascending, none of them empty, apart from each other.
    public init(holes: [Range<PageIndex>]) { self.holes = holes }

    /// Walks `pageCount` pages of `file` from `fileOffset` on. Holes of hugetlbfs are not known to the kernel: none.
    public init(
        of file: borrowing MemoryFile, fileOffset: Int, pageCount: Int, pageSize: PageSize
    ) throws(HostMemoryError) {
        guard !file.isHugetlbfs else {
            self = .empty
            return
        }
        var holes: [Range<PageIndex>] = []
        var page = 0
        while page < pageCount {
            let offset = fileOffset + page << pageSize.shift
            guard let data = try file.nextDataRun(from: offset) else {
                holes.append(page..<pageCount)
                break
            }
            // Data may begin and end inside a page: only whole pages are holes.
            let start = min(pageCount, (data.lowerBound - fileOffset) >> pageSize.shift)
            if start > page { holes.append(page..<start) }
            page = max(page + 1, (data.upperBound - fileOffset + pageSize.bytes - 1) >> pageSize.shift)
        }
        self.holes = holes
    }

    /// The first run of pages in `pages` that were holes; nil when there is none. O(log holes).
    public func firstHole(in pages: Range<PageIndex>) -> Range<PageIndex>? {
        let number = firstHole(endingAfter: pages.lowerBound)
        guard number < holes.count, holes[number].lowerBound < pages.upperBound else { return nil }
        return holes[number].clamped(to: pages)
    }

    /// The number of the first hole that ends behind `page`. O(log holes).
    public func firstHole(endingAfter page: PageIndex) -> Int {
        var low = 0
        var high = holes.count
        while low < high {
            let middle = (low + high) / 2
            if holes[middle].upperBound <= page { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
