import PageCore

/// What the destination's state machine wants done. Called during the event that causes it, statically, never boxed.
///
/// Calls that answer false could not be queued now; the engine keeps the duty and asks again at `retry`.
public protocol DestinationSink: ~Copyable {
    /// Ask the source for a page a thread waits for, and for its window: the range around it (the page included), or with a
    /// stride every so manyth page of the range ahead of it.
    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool
    /// Ask the source for pages nobody waits for yet: a range, or every `stride`th page of it.
    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool
    /// The range is settled for good, and mapping B holds its content (nothing, where it reads as zero): whoever takes this
    /// session over after a crash may believe it from now on. Called before the range is made visible, so that no page that a
    /// guest may have written to is ever fetched again. A range from a slab is not told of: `installFromSlab` knows when it is in.
    mutating func record(_ range: PageRange)
    /// The bytes of the range lie complete in mapping B: make the pages visible and wake who waits for them.
    mutating func install(_ range: PageRange)
    /// The bytes of the range lie in the lane's slab from `byteOffset`: copy or move them in, and wake who waits.
    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int)
    /// A thread faults on a page that is settled: make visible what mapping B holds, or zeros when it holds nothing.
    /// A page whose `installFromSlab` the kernel still refuses is settled too, and mapping B holds nothing of it yet:
    /// then nothing is to be done here, the copy will wake the thread. Zeros in its place would be taken for its content.
    mutating func resolve(_ region: RegionIndex, _ page: PageIndex)
    /// Mapping B holds bytes of pages the guest gave up: free them, so that the pages read as zero.
    mutating func erase(_ range: PageRange)
    /// Tell the source how many more bytes it may push.
    mutating func grantCredit(bytes: Int) -> Bool
    /// Tell the source that the range is no longer wanted: it saves the link some bytes, and the source believes
    /// `reportAllResident` only when it knows of every page why it need not be sent.
    mutating func reportRemoved(_ range: PageRange) -> Bool
    /// Tell the source that every page is in.
    mutating func reportAllResident() -> Bool
}

/// Where the payload of a `pages` frame is to be received.
public enum Placement: Sendable, Hashable {
    /// Into mapping B, where the pages belong.
    case direct(PageRange)
    /// Into the lane's slab, from its start.
    case slab
    /// Nowhere: none of the pages is wanted any more.
    case discard
}
