import PageCore

/// A run of pages at the start of an asked range that are alike.
public struct ContentRun: Sendable, Hashable {
    public enum Kind: Sendable, Hashable {
        /// Holes, or pages whose every byte is zero: they cross as a range.
        case zero
        /// Pages whose bytes must cross.
        case data
    }

    public let kind: Kind
    /// At least one.
    public let count: Int

    public init(_ kind: Kind, count: Int) {
        precondition(count > 0, "a run is not empty")
        self.kind = kind
        self.count = count
    }
}

/// What the source's state machine needs to know of memory contents. Called statically, never boxed.
public protocol ContentClassifier: ~Copyable {
    /// The kind of the first page of `range`, and for how many pages it holds: at most `mostScanned` pages are looked
    /// at one by one, so a hole may be longer than that, a run of data not.
    mutating func classify(_ range: PageRange, mostScanned: Int) -> ContentRun
    /// The first hole of the memory's backing in `range`, without looking at contents; nil when there is none.
    mutating func firstHole(in range: PageRange) -> PageRange?
}
