import PageCore

/// Pages that an earlier run needed, to be pulled before this one asks: in the order of the trace, a few at a time.
struct ReplayQueue: ~Copyable, Sendable {
    /// Bytes asked for and not here yet. They wait at the source, behind every demand; its urgent lane takes fewer at a time.
    private static let mostBytes = 256 << 10
    /// Runs asked for and not here yet: fewer than a source keeps.
    private static let mostRuns = 56
    /// Within so many pages the order of a trace does not matter: neighbours are asked for together. The first of them are wanted
    /// at once, so it begins with fewer, and doubles.
    private static let sortedPages = (first: 16, most: 256)
    private static let runPages = 16

    /// In the order in which they are asked for.
    private var runs: ContiguousArray<Range<Int>> = []
    /// Asked for from here up to `next`; settled before.
    private var settled = 0
    private var next = 0
    /// Pages of the trace.
    private var isReplayed = PageBitmap(pageCount: 0)

    var isFinished: Bool { next == runs.count }

    /// Takes a trace's runs. Set-up: allocates what they need.
    ///
    /// - Precondition: the runs lie inside the layout.
    mutating func load(_ trace: [Range<Int>], _ layout: RegionLayout) {
        var chunk: [Range<Int>] = []
        var pages = 0
        var sortedPages = Self.sortedPages.first
        isReplayed = PageBitmap(pageCount: layout.totalPages)
        for run in trace {
            isReplayed.insert(run)
            chunk.append(run)
            pages += run.count
            if pages >= sortedPages {
                append(chunk, layout)
                chunk.removeAll(keepingCapacity: true)
                pages = 0
                sortedPages = min(2 * sortedPages, Self.sortedPages.most)
            }
        }
        append(chunk, layout)
    }

    private mutating func append(_ chunk: [Range<Int>], _ layout: RegionLayout) {
        var from = 0
        for run in chunk.sorted(by: { $0.lowerBound < $1.lowerBound }) {
            var first = max(run.lowerBound, from)
            while first < run.upperBound {
                let region = layout.region(ofSessionPage: first)
                let most = max(1, Self.runPages * PageSize.fourKiB.bytes >> layout[region].pageSize.shift)
                let end = min(run.upperBound, first + most, layout.sessionPages(layout.wholeRange(region)).upperBound)
                if let last = runs.last, last.upperBound == first, from == first, last.count + end - first <= most,
                    layout.region(ofSessionPage: last.lowerBound) == region
                {
                    runs[runs.count - 1] = last.lowerBound..<end
                } else {
                    runs.append(first..<end)
                }
                first = end
                from = end
            }
            from = max(from, run.upperBound)
        }
    }

    /// The next run to ask for, if it is time for one. Runs that are here already are skipped.
    mutating func due(settled pages: borrowing PageBitmap, pageBytes: (Int) -> Int) -> Range<Int>? {
        while settled < next, pages.firstClear(in: runs[settled]) == nil { settled += 1 }
        while next < runs.count, pages.firstClear(in: runs[next]) == nil {
            if settled == next { settled += 1 }
            next += 1
        }
        guard next < runs.count, next - settled < Self.mostRuns else { return nil }
        var bytes = 0
        for index in settled..<next { bytes += runs[index].count * pageBytes(runs[index].lowerBound) }
        return bytes < Self.mostBytes ? runs[next] : nil
    }

    /// Whether the page, and what is needed around it, was asked for here or will be.
    func covers(_ page: Int) -> Bool { isReplayed.pageCount > 0 && isReplayed.contains(page) }

    /// What was asked for is lost: it is asked for again.
    mutating func restart() { next = settled }

    /// The run that was due is on its way.
    mutating func asked() { next += 1 }
}
