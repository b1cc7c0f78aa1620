import Glibc
import HostMemory
import PageCore
import PageTransport
import PageWire
import Synchronization
import Verbs

/// A source's memory, registered so that destinations of one protection domain may read it.
///
/// Only what holds data is registered: registering allocates and pins. It begins while the guest still runs; `refresh`
/// mends it once the memory is final. A page that was given up and touched again in between is another page than the
/// pinned one, and the registration stale there. It is found without any help of the guest: pinned pages stay mapped
/// here, and punching a hole unmaps them. So this has a mapping of its own that nothing else touches.
final class SourceExposure: Sendable {
    /// One registered run of pages.
    final class Chunk: Sendable {
        let first: PageIndex
        let count: Int
        let registration: MemoryRegistration

        init(first: PageIndex, count: Int, registration: consuming MemoryRegistration) {
            self.first = first
            self.count = count
            self.registration = registration
        }
    }

    /// A region of the image, mapped once more.
    private final class View: Sendable {
        let region: SourceImage.Region
        let mapping: MappedMemory
        let chunks = Mutex<[Chunk]>([])

        init(_ region: SourceImage.Region) throws(HostMemoryError) {
            self.region = region
            mapping = try Self.map(region)
        }

        /// Linux before 6.2 lets only writable mappings be registered for reading.
        private static func map(_ region: SourceImage.Region) throws(HostMemoryError) -> MappedMemory {
            let lengthBytes = region.mapping.lengthBytes
            do throws(HostMemoryError) {
                let writable = try MemoryFile(path: "/proc/self/fd/\(region.file.rawValue)", access: .readWrite)
                return try MappedMemory(
                    of: writable, offset: region.fileOffset, lengthBytes: lengthBytes, access: .readWrite, reserves: false)
            } catch {
                return try MappedMemory(of: region.file, offset: region.fileOffset, lengthBytes: lengthBytes, access: .readOnly)
            }
        }
    }

    /// Small enough that mending one costs little, large enough that there are few.
    private static let chunkBytes = 32 << 20
    /// Holes up to this long between data are registered along.
    private static let joinedHoleBytes = 64 << 10

    let domain: ProtectionDomain
    private let views: [View]

    /// Registers what the image holds now. Takes as long as pinning it does: call it while nobody waits.
    init(_ image: SourceImage, domain: ProtectionDomain) throws(SessionError) {
        self.domain = domain
        var views: [View] = []
        do throws(HostMemoryError) {
            for region in image.regions { views.append(try View(region)) }
        } catch {
            throw .memory(error.description)
        }
        self.views = views
        try refresh()
    }

    /// Makes the registration that of the memory as it is now: what is stale is done again, what is new is added.
    func refresh() throws(SessionError) {
        let table = try PageTable()
        for view in views {
            var chunks = view.chunks.withLock { $0 }
            let shift = view.mapping.pageSize.shift
            var kept: [Chunk] = []
            for chunk in chunks
            where try table.isMapped(view.mapping.address + UInt(chunk.first << shift), lengthBytes: chunk.count << shift) {
                kept.append(chunk)
            }
            for run in Self.uncovered(try dataRuns(view), by: kept) { kept.append(contentsOf: try register(run, view)) }
            kept.sort { $0.first < $1.first }
            chunks = kept
            view.chunks.withLock { $0 = chunks }
        }
    }

    private func register(_ run: Range<PageIndex>, _ view: View) throws(SessionError) -> [Chunk] {
        let shift = view.mapping.pageSize.shift
        let most = max(1, Self.chunkBytes >> shift)
        var chunks: [Chunk] = []
        for first in stride(from: run.lowerBound, to: run.upperBound, by: most) {
            let count = min(most, run.upperBound - first)
            do throws(VerbsError) {
                chunks.append(
                    Chunk(
                        first: first, count: count,
                        registration: try MemoryRegistration(
                            domain, address: view.mapping.address + UInt(first << shift), lengthBytes: count << shift,
                            access: .remoteRead)))
            } catch {
                throw SessionError(error)
            }
        }
        return chunks
    }

    /// The runs of pages that hold data, short holes among them.
    private func dataRuns(_ view: View) throws(SessionError) -> [Range<PageIndex>] {
        let holes: HoleMap
        do throws(HostMemoryError) {
            holes = try HoleMap(
                of: view.region.file, fileOffset: view.region.fileOffset, pageCount: view.mapping.pageCount,
                pageSize: view.mapping.pageSize)
        } catch {
            throw .memory(error.description)
        }
        let joined = Self.joinedHoleBytes >> view.mapping.pageSize.shift
        var runs: [Range<PageIndex>] = []
        var first = 0
        for hole in holes.holes where hole.count > joined || hole.upperBound == view.mapping.pageCount || hole.lowerBound == 0 {
            if hole.lowerBound > first { runs.append(first..<hole.lowerBound) }
            first = hole.upperBound
        }
        if first < view.mapping.pageCount { runs.append(first..<view.mapping.pageCount) }
        return runs
    }

    /// What of `runs` no chunk covers; both in order.
    static func uncovered(_ runs: [Range<PageIndex>], by chunks: [Chunk]) -> [Range<PageIndex>] {
        subtract(chunks.map { $0.first..<($0.first + $0.count) }, from: runs)
    }

    static func subtract(_ covered: [Range<PageIndex>], from runs: [Range<PageIndex>]) -> [Range<PageIndex>] {
        var rest: [Range<PageIndex>] = []
        var number = 0
        for run in runs {
            var first = run.lowerBound
            while number < covered.count, covered[number].upperBound <= first { number += 1 }
            var next = number
            while next < covered.count, covered[next].lowerBound < run.upperBound {
                if covered[next].lowerBound > first { rest.append(first..<covered[next].lowerBound) }
                first = max(first, covered[next].upperBound)
                next += 1
            }
            if first < run.upperBound { rest.append(first..<run.upperBound) }
        }
        return rest
    }

    // MARK: Naming it

    /// What destinations are told: the registered runs, in order.
    var keys: [RegionKey] {
        var keys: [RegionKey] = []
        for (number, view) in views.enumerated() {
            for chunk in view.chunks.withLock({ $0 }) {
                keys.append(
                    RegionKey(
                        range: PageRange(region: RegionIndex(number), first: chunk.first, count: chunk.count),
                        address: UInt64(chunk.registration.address), key: chunk.registration.remoteKey))
            }
        }
        return keys
    }

    /// A range that lies in one registered run, for the device of this host.
    func local(_ range: PageRange) -> LocalMemory? {
        let view = views[Int(range.region)]
        let chunk = view.chunks.withLock { chunks in
            chunks.first { $0.first <= range.first && range.end <= $0.first + $0.count }
        }
        guard let chunk else { return nil }
        return LocalMemory(
            address: chunk.registration.address + UInt((range.first - chunk.first) << view.mapping.pageSize.shift),
            key: chunk.registration.localKey)
    }
}

/// Which pages of this process are mapped (/proc/PID/pagemap, bit 63; Linux admin-guide/mm/pagemap).
private struct PageTable: ~Copyable {
    private let descriptor: Int32

    init() throws(SessionError) {
        descriptor = unsafe open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .memory("cannot read /proc/self/pagemap: \(SystemError.text(errno))") }
    }

    deinit { close(descriptor) }

    /// Whether every page of a run of addresses is mapped.
    func isMapped(_ address: UInt, lengthBytes: Int) throws(SessionError) -> Bool {
        var entries = [UInt64](repeating: 0, count: 4096)
        var page = Int(address >> 12)
        var rest = lengthBytes >> 12
        while rest > 0 {
            let count = min(rest, entries.count)
            // SAFETY: the read stays inside the array.
            let bytes = unsafe entries.withUnsafeMutableBytes {
                unsafe pread(descriptor, $0.baseAddress, count * 8, off_t(page * 8))
            }
            guard bytes > 0 else { throw .memory("cannot read /proc/self/pagemap: \(SystemError.text(errno))") }
            let seen = bytes / 8
            for index in 0..<seen where entries[index] & (1 << 63) == 0 { return false }
            page += seen
            rest -= seen
        }
        return true
    }
}
