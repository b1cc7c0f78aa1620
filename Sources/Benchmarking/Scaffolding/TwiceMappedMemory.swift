import Demonstration
import Glibc
import HostMemory
import PageCore
import PageFerry
import Userfault

/// Shared memory as a VMM has it: mapping A, which its threads touch and whose faults a userfaultfd tells, and mapping B of
/// the same file, into which bytes are received. Used for the floors and for whole sessions alike, and never given back
/// between rounds: fresh memory would cost several times what is measured.
final class TwiceMappedMemory: Sendable {
    let userfault: UserfaultDescriptor
    /// Mapping A.
    let guest: MappedMemory
    /// Mapping B.
    let second: MappedMemory
    /// Mapping A, page by page.
    let pages: PatternedMemory
    private let file: MemoryFile

    init(lengthBytes: Int) throws(BenchmarkError) {
        do {
            file = try MemoryFile.create(name: "pageferry-bench", lengthBytes: lengthBytes)
            guest = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            second = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            userfault = try UserfaultDescriptor(required: [.missingSharedMemory, .minorSharedMemory])
            try second.populate()
        } catch {
            throw BenchmarkError("\(error)")
        }
        // SAFETY: the mapping lives as long as this object, which every user of the pages keeps.
        pages = unsafe PatternedMemory(address: guest.address, pageCount: guest.pageCount)
    }

    /// Makes every page absent again for whoever touches it. The memory behind stays allocated, with one word of each page
    /// wrong: a page that nobody fills is noticed.
    func rearm() throws(BenchmarkError) {
        // SAFETY: as for `pages`.
        let writer = unsafe PatternedMemory(address: second.address, pageCount: second.pageCount)
        for page in 0..<writer.pageCount { writer.spoil(page) }
        try unmapGuest()
    }

    /// Makes every page absent for whoever touches it, with its bytes where they are.
    func unmapGuest() throws(BenchmarkError) {
        do {
            try guest.discard(0..<guest.lengthBytes)
            try userfault.register(address: guest.address, lengthBytes: guest.lengthBytes, modes: [.missing, .minor])
        } catch {
            throw BenchmarkError("\(error)")
        }
    }

    /// Descriptors for a session of pages `range`, a region of its own.
    func handOver(_ range: Range<PageIndex>? = nil, name: String = "memory") throws(BenchmarkError) -> DestinationRegion {
        let range = range ?? 0..<guest.pageCount
        let shift = PageSize.fourKiB.shift
        do {
            return DestinationRegion(
                name: name, guestAddress: guest.address + UInt(range.lowerBound << shift), lengthBytes: range.count << shift,
                pageSize: .fourKiB, userfault: try userfault.duplicated().release(),
                backing: .init(descriptor: try file.duplicated().release(), fileOffset: range.lowerBound << shift))
        } catch {
            throw BenchmarkError("\(error)")
        }
    }
}
