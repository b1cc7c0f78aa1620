import HostMemory
import PageCore
import PageWire
import Synchronization
import Verbs

/// One region of a source's memory, as it is given to a session.
public struct SourceRegionDescriptor: Sendable {
    public var name: String
    /// An open descriptor of the memory file; belongs to the image from then on.
    public var descriptor: Int32
    /// Where the region begins in the file.
    public var fileOffset: Int
    public var lengthBytes: Int

    public init(name: String, descriptor: Int32, fileOffset: Int, lengthBytes: Int) {
        self.name = name
        self.descriptor = descriptor
        self.fileOffset = fileOffset
        self.lengthBytes = lengthBytes
    }
}

/// The memory a source serves: mapped once, read by any number of sessions. It must not change while it is served.
public final class SourceImage: Sendable {
    /// One region, mapped.
    final class Region: Sendable {
        let file: MemoryFile
        let mapping: MappedMemory
        let fileOffset: Int
        /// What is absent comes when it is touched (`CachedImage`): the file does not tell what it holds.
        let isFilledOnTouch: Bool
        private let found = Mutex(HoleMap.empty)

        /// The holes as they were found last.
        var holes: HoleMap { found.withLock { $0 } }

        func findHoles() throws(HostMemoryError) {
            guard !isFilledOnTouch else { return }
            let map = try HoleMap(
                of: file, fileOffset: fileOffset, pageCount: mapping.pageCount, pageSize: mapping.pageSize)
            found.withLock { $0 = map }
        }

        init(
            file: consuming MemoryFile, fileOffset: Int, lengthBytes: Int, pageSize: PageSize? = nil, isFilledOnTouch: Bool = false
        ) throws(HostMemoryError) {
            self.isFilledOnTouch = isFilledOnTouch
            mapping = try MappedMemory(of: file, offset: fileOffset, lengthBytes: lengthBytes, access: .readOnly, pageSize: pageSize)
            self.file = file
            self.fileOffset = fileOffset
        }
    }

    let regions: [Region]
    public let layout: RegionLayout

    /// Maps the regions of a virtual machine.
    public convenience init(_ descriptors: [SourceRegionDescriptor]) throws(SessionError) {
        var regions: [(String, Region)] = []
        for region in descriptors {
            do throws(HostMemoryError) {
                let file = try MemoryFile(adopting: region.descriptor, name: region.name)
                regions.append(
                    (
                        region.name,
                        try Region(
                            file: file, fileOffset: region.fileOffset, lengthBytes: region.lengthBytes)
                    ))
            } catch {
                throw .memory("memory region '\(region.name)': \(error.description)")
            }
        }
        try self.init(regions)
    }

    /// Maps whole memory files, a region each, in their order.
    ///
    /// - Parameters:
    ///   - paths: of readable files, whole pages long.
    ///   - pageSize: that of the memory they are for, where it is not a file's: a snapshot of huge pages in an ordinary file.
    public convenience init(paths: [String], pageSize: PageSize? = nil) throws(SessionError) {
        var regions: [(String, Region)] = []
        for path in paths { regions.append(try Self.map(path, pageSize)) }
        try self.init(regions)
    }

    private static func map(_ path: String, _ pageSize: PageSize?) throws(SessionError) -> (String, Region) {
        let file: MemoryFile
        do throws(HostMemoryError) {
            file = try MemoryFile(path: path, access: .readOnly)
        } catch {
            throw .cannotOpenMemory("\(error.description); give the path of a readable memory file")
        }
        let region: Region
        let lengthBytes: Int
        do throws(HostMemoryError) { lengthBytes = try file.lengthBytes() } catch { throw .memory(error.description) }
        let pageSize = file.pageSize == .twoMiB ? .twoMiB : pageSize ?? .fourKiB
        let pageBytes = pageSize.bytes
        guard lengthBytes > 0, lengthBytes & (pageBytes - 1) == 0 else {
            throw .unevenMemory(path: path, lengthBytes: lengthBytes, pageBytes: pageBytes)
        }
        do throws(HostMemoryError) {
            region = try Region(file: file, fileOffset: 0, lengthBytes: lengthBytes, pageSize: pageSize)
        } catch {
            throw .memory(error.description)
        }
        return (String(path.split(separator: "/").last?.prefix(64) ?? "memory"), region)
    }

    /// Looks for the holes of the memory, so that a session can tell its destination of them at once. Call it shortly before
    /// the memory becomes final: a hole that is filled after it is noticed, one that is made after it crosses as zeros.
    public func findHoles() throws(SessionError) {
        do throws(HostMemoryError) {
            for region in regions { try region.findHoles() }
        } catch {
            throw .memory(error.description)
        }
    }

    /// Which pages are none of the holes found last; nil when there are no holes, or too many pages to tell of.
    var content: ResidentMap? {
        guard layout.totalPages <= ResidentPages.mostToldPages else { return nil }
        let holes = regions.map(\.holes.holes)
        guard holes.contains(where: { !$0.isEmpty }) else { return nil }
        var pages = PageBitmap(pageCount: layout.totalPages)
        pages.insert(0..<layout.totalPages)
        for (number, holes) in holes.enumerated() {
            for hole in holes {
                pages.remove(layout.sessionPages(PageRange(region: RegionIndex(number), first: hole.lowerBound, count: hole.count)))
            }
        }
        return ResidentMap(pages)
    }

    private let exposures = Mutex<[SourceExposure]>([])

    /// The memory as a protection domain's destinations may read it; registered when it is asked for the first time.
    func exposure(for domain: ProtectionDomain) throws(SessionError) -> SourceExposure {
        // Registering memory touches all of it.
        guard !isFilledOnTouch else { throw .memory("a cache serves its pages over streams, not over RDMA") }
        if let known = exposures.withLock({ $0.first { $0.domain === domain } }) { return known }
        let made = try SourceExposure(self, domain: domain)
        exposures.withLock { $0.append(made) }
        return made
    }

    /// Whether looking at a page may mean waiting for it.
    var isFilledOnTouch: Bool { regions.contains { $0.isFilledOnTouch } }

    init(_ regions: [(String, Region)]) throws(SessionError) {
        do throws(RegionLayoutError) {
            var descriptions: [RegionDescription] = []
            for (name, region) in regions {
                descriptions.append(
                    try RegionDescription(
                        name: name, lengthBytes: region.mapping.lengthBytes, pageSize: region.mapping.pageSize))
            }
            layout = try RegionLayout(descriptions)
        } catch {
            throw .memory(error.description)
        }
        self.regions = regions.map { $0.1 }
    }
}
