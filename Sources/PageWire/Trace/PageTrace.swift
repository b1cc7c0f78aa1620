import PageCore

/// The pages that a guest needed, in the order in which it needed them: recorded in one run, replayed in a later one or in a
/// benchmark.
///
/// Pages are session page numbers: through all regions in order.
public struct PageTrace: Sendable, Hashable {
    /// What a recorded region looked like; its name plays no part.
    public struct Region: Sendable, Hashable {
        public var pageSize: PageSize
        public var pageCount: Int

        public init(pageSize: PageSize, pageCount: Int) {
            self.pageSize = pageSize
            self.pageCount = pageCount
        }
    }

    /// The most bytes a trace file may have; longer ones are refused unread.
    public static let mostBytes = 64 << 20
    /// The most runs a trace may have.
    public static let mostRuns = 1 << 22

    public let regions: [Region]
    /// Runs of session pages, needed one after the other and each from its first page to its last. In no run of the list is
    /// a page outside of the regions; runs may repeat pages.
    public let runs: [Range<Int>]
    /// Whether the recorder ran out of room: later pages are missing.
    public let isTruncated: Bool

    /// - Precondition: the runs lie inside the regions and are not empty.
    public init(regions: [Region], runs: [Range<Int>], isTruncated: Bool = false) {
        let total = regions.reduce(0) { $0 + $1.pageCount }
        precondition(runs.allSatisfy { !$0.isEmpty && $0.lowerBound >= 0 && $0.upperBound <= total }, "runs lie in their memory")
        self.regions = regions
        self.runs = runs
        self.isTruncated = isTruncated
    }

    /// The pages of all regions.
    public var totalPages: Int { regions.reduce(0) { $0 + $1.pageCount } }

    /// The pages of all runs, repeated ones repeated.
    public var pageCount: Int { runs.reduce(0) { $0 + $1.count } }

    /// Whether the trace is of memory of this layout: as many regions, of the same lengths and page sizes.
    public func fits(_ layout: RegionLayout) -> Bool { regions == Self.regions(of: layout) }

    /// The shape of a layout.
    public static func regions(of layout: RegionLayout) -> [Region] {
        layout.regions.map { Region(pageSize: $0.pageSize, pageCount: $0.pageCount) }
    }
}

/// Why bytes are not a trace, or not one for this memory.
public enum TraceError: Error, Sendable, Hashable {
    case tooLong(bytes: Int)
    case notATrace
    case unknownVersion(Int)
    case damaged
    case truncatedFile
    case badRegions
    case outsideRegions
    case tooManyRuns
    case otherMemory(traced: [PageTrace.Region], offered: [PageTrace.Region])
}

extension TraceError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .tooLong(let bytes): "the trace has \(bytes) bytes; at most \(PageTrace.mostBytes) are accepted"
        case .notATrace: "the file is no trace; record one with pageferry destination --record-trace"
        case .unknownVersion(let version):
            "the trace has version \(version), this build reads \(PageTrace.version); record it anew, or use a newer build"
        case .damaged: "the trace is damaged: its checksum does not match; record it anew"
        case .truncatedFile: "the trace ends too early; record it anew"
        case .badRegions: "the trace speaks of memory that no session can have; record it anew"
        case .outsideRegions: "the trace names pages outside of its memory; record it anew"
        case .tooManyRuns: "the trace has more than \(PageTrace.mostRuns) runs; record it anew"
        case .otherMemory(let traced, let offered):
            "the trace is of other memory (\(Self.text(traced))) than the source offers (\(Self.text(offered))); record one of this machine"
        }
    }

    private static func text(_ regions: [PageTrace.Region]) -> String {
        regions.map { "\($0.pageCount) pages of \($0.pageSize.bytes >> 10) KiB" }.joined(separator: ", ")
    }
}
