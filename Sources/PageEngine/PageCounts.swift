import PageCore
import PageWire

/// Pages by how they came, of one side of a session.
public struct PageCounts: Sendable, Hashable {
    /// Pages a thread waited for.
    public var demand = 0
    /// Pages that came because they lie around a demanded one.
    public var window = 0
    /// Pages nobody asked for.
    public var push = 0
    /// Pages that read as zero and crossed as ranges, whatever the reason.
    public var zero = 0
    /// Pages the guest gave up before they came.
    public var removed = 0
    /// Pages whose bytes came for nothing, because the guest had given them up.
    public var dropped = 0
    /// Source: pages that had left, and were lost with a link.
    public var lost = 0
    /// Source: pages that had not left, and of which the destination said after a lost link that it has them.
    /// Destination: pages that came to a daemon before this one.
    public var found = 0
    /// Bytes of page content that crossed.
    public var contentBytes = 0

    public init() {}

    mutating func add(_ pages: Int, _ reason: PageReason) {
        switch reason {
        case .demand: demand += pages
        case .window: window += pages
        case .push: push += pages
        }
    }
}
