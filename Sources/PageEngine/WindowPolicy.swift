import PageCore

/// Which pages are fetched around a demanded one.
///
/// An aligned block of `windowBytes` that holds the page: neighbours on both sides, and two faults in one block ask for
/// the same pages, which the source sends once.
public struct WindowPolicy: Sendable, Hashable {
    /// The size of the block in bytes; a block is at least the demanded page.
    public var windowBytes: Int

    public init(windowBytes: Int = 64 << 10) {
        self.windowBytes = windowBytes
    }

    /// The window around `page`, the page included, inside its region.
    public func window(around page: PageIndex, in region: RegionIndex, of layout: RegionLayout) -> PageRange {
        let pages = max(1, windowBytes >> layout.pageShift(region))
        let first = page - page % pages
        return PageRange(region: region, first: first, count: min(pages, layout.wholeRange(region).count - first))
    }
}
