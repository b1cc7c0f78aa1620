import PageCore

/// Records which pages a guest needs, as it needs them. All its room is set aside at start; when that is full, later pages are
/// left out and the trace says so.
public struct TraceRecorder: ~Copyable, Sendable {
    /// Room for millions of scattered pages; untouched, it costs address space only.
    public static let standardBytes = 16 << 20

    private let regions: [PageTrace.Region]
    private var encoder: TraceRunEncoder
    /// The run that may still grow.
    private var open: Range<Int>?
    private var isTruncated = false

    public init(layout: RegionLayout, mostBytes: Int = TraceRecorder.standardBytes) {
        regions = PageTrace.regions(of: layout)
        encoder = TraceRunEncoder(mostBytes: min(mostBytes, PageTrace.mostBytes / 2))
    }

    /// The guest needs these session pages now, in ascending order. O(1), allocates nothing.
    public mutating func record(_ pages: Range<Int>) {
        guard !pages.isEmpty, !isTruncated else { return }
        if let run = open, run.upperBound == pages.lowerBound {
            open = run.lowerBound..<pages.upperBound
        } else {
            close()
            open = pages
        }
    }

    private mutating func close() {
        if let run = open, !encoder.append(run) { isTruncated = true }
        open = nil
    }

    /// The trace as a file's bytes.
    public consuming func finish() -> [UInt8] {
        close()
        return PageTrace.file(regions: regions, isTruncated: isTruncated, runs: encoder.bytes)
    }
}
