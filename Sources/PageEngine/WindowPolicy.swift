import PageCore

/// Which pages are fetched around a demanded one.
public struct WindowPolicy: Sendable, Hashable {
    public enum Shape: Sendable, Hashable {
        /// An aligned block of `windowBytes` that holds the page: neighbours on both sides, and two faults in one block ask
        /// for the same pages, which the source sends once.
        case fixed
        /// What the faults so far suggest, at most `windowBytes`: nothing where they are random, more and more ahead of a
        /// thread that goes through memory in steps of one size.
        case adaptive
    }

    public var shape: Shape
    /// The size of the largest window in bytes; a window is at least the demanded page.
    public var windowBytes: Int

    /// The standard: adaptive, up to 1 MiB.
    public init() { self = .adaptive() }

    /// Blocks of one size.
    public init(windowBytes: Int) { self.init(shape: .fixed, windowBytes: windowBytes) }

    private init(shape: Shape, windowBytes: Int) {
        self.shape = shape
        self.windowBytes = windowBytes
    }

    public static func adaptive(mostBytes: Int = 1 << 20) -> WindowPolicy { WindowPolicy(shape: .adaptive, windowBytes: mostBytes) }

    /// The block around `page`, the page included, inside its region.
    public func window(around page: PageIndex, in region: RegionIndex, of layout: RegionLayout) -> PageRange {
        let pages = max(1, windowBytes >> layout.pageShift(region))
        let first = page - page % pages
        return PageRange(region: region, first: first, count: min(pages, layout.wholeRange(region).count - first))
    }
}
