import PageCore

/// A copy of another source's memory, to be served to any number of destinations of this host: empty at first, and filled by a
/// destination session of this very process, at the touch of whoever serves it.
///
/// Each region is a file in memory, mapped twice: the sessions that serve it read the one mapping, which is registered with a
/// userfaultfd, and wait there for what has not come; the session that fetches it writes to the other.
/// (Documentation/Decisions/0013-one-cache-a-host.md)
///
/// A thread that waits for a page that never comes ends with the process alone: whoever gives a cache up ends the process.
public final class CachedImage: Sendable {
    /// To be served. Its pages do not change once they are there.
    public let image: SourceImage
    /// To be filled.
    public let regions: DestinationRegions

    /// Memory for `layout`, none of it allocated.
    public init(of layout: RegionLayout) throws(SessionError) {
        var served: [(String, SourceImage.Region)] = []
        var filled: [DestinationRegion] = []
        for region in layout.regions {
            let kept = try SourceImage.Region(filledOnTouch: region)
            if let region = try kept.toBeFilled(region.name) { filled.append(region) }
            served.append((region.name, kept))
        }
        image = try SourceImage(served)
        regions = try DestinationRegions(filled)
    }
}
