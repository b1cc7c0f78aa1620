import Glibc
import HostMemory
import PageCore
import Userfault

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
            let kept = try Self.memory(for: region)
            let descriptor = try Self.unwrapping { () throws(HostMemoryError) in try kept.file.duplicated().release() }
            filled.append(
                DestinationRegion(
                    name: region.name, guestAddress: kept.mapping.address, lengthBytes: region.lengthBytes, pageSize: region.pageSize,
                    userfault: try Self.register(kept), backing: DestinationRegion.Backing(descriptor: descriptor, fileOffset: 0)))
            served.append((region.name, kept))
        }
        image = try SourceImage(served)
        regions = try DestinationRegions(filled)
    }

    /// Ordinary memory, for huge pages too: none need be set aside on this host.
    private static func memory(for region: RegionDescription) throws(SessionError) -> SourceImage.Region {
        try unwrapping { () throws(HostMemoryError) in
            try SourceImage.Region(
                file: try MemoryFile.create(name: "pageferry-cache", lengthBytes: region.lengthBytes), fileOffset: 0,
                lengthBytes: region.lengthBytes, pageSize: region.pageSize, isFilledOnTouch: true)
        }
    }

    private static func unwrapping<Result>(_ body: () throws(HostMemoryError) -> Result) throws(SessionError) -> Result {
        do throws(HostMemoryError) {
            return try body()
        } catch {
            throw .memory("the cache: \(error.description)")
        }
    }

    /// - Returns: a descriptor for the session that fills the region.
    private static func register(_ region: SourceImage.Region) throws(SessionError) -> Int32 {
        do throws(UserfaultError) {
            let userfault = try UserfaultDescriptor(required: .sharedMemory)
            try userfault.register(address: region.mapping.address, lengthBytes: region.mapping.lengthBytes, modes: [.missing, .minor])
            let copy = try userfault.duplicated().release()
            // Kept for good: with the last descriptor the registration ends, and what is missing would be served as zeros.
            _ = userfault.release()
            return copy
        } catch {
            throw .memory("the cache: \(error.description)")
        }
    }
}
