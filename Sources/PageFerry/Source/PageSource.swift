import PageCore

/// Memory that a source serves and cannot map: each session asks for its pages when it is to send them, and keeps them in buffers of
/// its own until they are sent.
///
/// Several sessions may ask at once, each on a thread of its own. What is read must be final: a page is asked for once a session, and
/// again after its link was lost.
public protocol PageSource: AnyObject, Sendable {
    /// What is served, in this order.
    var layout: RegionLayout { get }

    /// The first run of pages in `range` that are known to be zero without a look at them; nil when there is none. O(log runs): it is
    /// called for every frame.
    func knownZeros(in range: PageRange) -> PageRange?

    /// Fills all of `bytes` with those of `range`, which lies in the layout. It may wait; then the destination that asked waits too, and
    /// no other. Whatever it throws ends the session, and nothing of this range has left.
    func read(_ range: PageRange, into bytes: inout MutableRawSpan) throws(SessionError)

    /// Throws when pages that have not been read yet can no longer be had; called every 50 ms. What it throws ends the session.
    func verify() throws(SessionError)
}

extension PageSource {
    public func knownZeros(in range: PageRange) -> PageRange? { nil }
    public func verify() throws(SessionError) {}
}
