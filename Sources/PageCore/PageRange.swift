/// The number of a region in its session's table, from zero.
public typealias RegionIndex = UInt16

/// The number of a page in its region, from zero, in units of that region's page size.
public typealias PageIndex = Int

/// A run of pages of one region: an *extent*. Never negative; may be empty.
public struct PageRange: Sendable, Hashable {
    public let region: RegionIndex
    /// The first page.
    public let first: PageIndex
    /// The number of pages.
    public let count: Int

    @inlinable
    public init(region: RegionIndex, first: PageIndex, count: Int) {
        precondition(first >= 0 && count >= 0, "a page range is never negative")
        self.region = region
        self.first = first
        self.count = count
    }

    /// One past the last page.
    @inlinable public var end: PageIndex { first + count }

    @inlinable public var isEmpty: Bool { count == 0 }

    @inlinable
    public func contains(_ page: PageIndex) -> Bool {
        page >= first && page < end
    }

    @inlinable
    public func overlaps(_ other: PageRange) -> Bool {
        region == other.region && first < other.end && other.first < end
    }

    /// The part of this range inside `bounds`, a half-open run of pages; empty (at the lower bound) when there is none.
    @inlinable
    public func clamped(to bounds: Range<PageIndex>) -> PageRange {
        let low = min(max(first, bounds.lowerBound), bounds.upperBound)
        let high = max(low, min(end, bounds.upperBound))
        return PageRange(region: region, first: low, count: high - low)
    }
}

extension PageRange: CustomStringConvertible {
    public var description: String { "\(region):\(first)+\(count)" }
}
