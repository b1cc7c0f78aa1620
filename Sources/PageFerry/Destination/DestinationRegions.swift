import Glibc
import HostMemory
import PageCore
import PageTransport
import Userfault

/// The memory of a session as it was handed over, mapped for receiving, and the system calls that fill it.
public struct DestinationRegions: Sendable {
    /// SAFETY: `@safe`, and Sendable, because nothing changes after its init but by `release`, which the session's thread calls, the
    /// only one that uses a region once it runs; the base address is that of the mapping it owns.
    @safe private final class Region: @unchecked Sendable {
        /// In the order of the region's pages.
        let pieces: ContiguousArray<RegionPiece>
        let lengthBytes: Int
        let pageSize: PageSize
        let fileOffset: Int
        /// nil once the region was taken out.
        private(set) var userfault: UserfaultDescriptor?
        /// Mapping B and its file; nil for anonymous memory.
        private(set) var file: MemoryFile?
        private(set) var mapping: MappedMemory?
        /// The first byte of mapping B.
        @unsafe private(set) var base: UnsafeMutableRawPointer?

        /// Lets go of everything that holds the memory.
        func release() {
            userfault = nil
            unsafe base = nil
            mapping = nil
            file = nil
        }

        init(_ region: DestinationRegion) throws(SessionError) {
            pieces = RegionPiece.list(region.pieces)
            lengthBytes = region.lengthBytes
            pageSize = region.pageSize
            fileOffset = region.backing?.fileOffset ?? 0
            guard !region.isRemoved else {
                userfault = nil
                file = nil
                mapping = nil
                unsafe base = nil
                return
            }
            do throws(UserfaultError) {
                userfault = try UserfaultDescriptor(adopting: region.userfault)
            } catch {
                if let backing = region.backing { close(backing.descriptor) }
                throw .memory("region '\(region.name)': \(error.description)")
            }
            guard let backing = region.backing else {
                file = nil
                mapping = nil
                unsafe base = nil
                return
            }
            do throws(HostMemoryError) {
                let opened = try MemoryFile(adopting: backing.descriptor, name: region.name)
                let mapped = try MappedMemory(
                    of: opened, offset: backing.fileOffset, lengthBytes: region.lengthBytes, access: .readWrite)
                // SAFETY: the mapping lives exactly as long as this object.
                unsafe base = mapped.pointer
                mapping = consume mapped
                file = consume opened
            } catch {
                throw .memory("region '\(region.name)': \(error.description)")
            }
        }
    }

    private let regions: ContiguousArray<Region>
    /// A page of zeros for kinds of memory that UFFDIO_ZEROPAGE does not know (hugetlbfs).
    private let zeroPage: ZeroPage
    /// What the source must have too.
    public let layout: RegionLayout

    private final class ZeroPage: Sendable {
        let memory: MappedMemory

        init() throws(SessionError) {
            do throws(HostMemoryError) {
                memory = try MappedMemory(anonymousBytes: PageSize.twoMiB.bytes)
            } catch {
                throw .memory(error.description)
            }
        }
    }

    /// Maps what was handed over; its descriptors belong to this from here on.
    public init(_ handedOver: [DestinationRegion]) throws(SessionError) {
        var regions: ContiguousArray<Region> = []
        for region in handedOver { regions.append(try Region(region)) }
        layout = try DestinationRegion.layout(of: handedOver)
        zeroPage = try ZeroPage()
        self.regions = regions
    }

    /// Allocates the memory behind mapping B ahead of the first page, so that receiving does not have to: fresh memory costs
    /// several times what copying into it does. The guest sees none of it: its pages stay absent until they are installed.
    ///
    /// - Parameter deadlineNanoseconds: on the monotonic clock; what is not allocated by then is allocated as pages come.
    public func prefault(deadlineNanoseconds: UInt64) throws(SessionError) {
        try prefault(only: nil, deadlineNanoseconds: deadlineNanoseconds)
    }

    /// The same for some of the pages; nil for all.
    func prefault(only content: ResidentMap?, deadlineNanoseconds: UInt64) throws(SessionError) {
        for (number, region) in regions.enumerated() where region.mapping != nil {
            let pages = layout.sessionPages(layout.wholeRange(RegionIndex(number)))
            let mostPages = max(1, Self.prefaultBytes >> region.pageSize.shift)
            var next = content == nil ? pages.lowerBound : content?.pages.firstSet(in: pages)
            while let first = next, first < pages.upperBound {
                if MonotonicClock.nowNanoseconds() >= deadlineNanoseconds { return }
                let most = first..<min(pages.upperBound, first + mostPages)
                let end = content?.pages.firstClear(in: most) ?? most.upperBound
                try prefault(
                    region, (first - pages.lowerBound) << region.pageSize.shift..<(end - pages.lowerBound) << region.pageSize.shift)
                next = content == nil ? end : content?.pages.firstSet(in: end..<pages.upperBound)
            }
        }
    }

    /// What is allocated between two looks at the clock.
    private static let prefaultBytes = 32 << 20

    private func prefault(_ region: Region, _ bytes: Range<Int>) throws(SessionError) {
        do throws(HostMemoryError) {
            // In one go the file takes a fifth of the time that it takes page by page for the mapping's sake.
            try region.file?.allocate(region.fileOffset + bytes.lowerBound..<region.fileOffset + bytes.upperBound)
            try region.mapping?.populate(bytes)
        } catch {
            throw .memory("not enough memory for the guest: \(error.description)")
        }
    }

    /// Where mapping B of a region begins; nil for anonymous memory. Good while this value lives.
    func mappingAddress(_ region: RegionIndex) -> UInt? {
        guard let base = unsafe regions[Int(region)].base else { return nil }
        return UInt(bitPattern: base)
    }

    var receivesInPlace: [Bool] { regions.map { $0.file != nil } }

    /// Where the kernel can make a page and fill it in one step, for less than making it takes that is then received into.
    var copiesUnprepared: [Bool] { regions.map { $0.file != nil && $0.pageSize == .fourKiB } }

    // MARK: Events

    var userfaultCount: Int { regions.count }

    /// -1 of a region that was taken out, as poll(2) takes it.
    func userfaultDescriptor(_ number: Int) -> Int32 { isReleased(number) ? -1 : rawValue(regions[number].userfault!) }

    private func rawValue(_ userfault: borrowing UserfaultDescriptor) -> Int32 { userfault.rawValue }

    func readEvents(_ number: Int, into events: inout UserfaultEventBatch) throws(UserfaultError) -> Bool {
        guard !isReleased(number) else { return false }
        return try regions[number].userfault!.readEvents(into: &events) > 0
    }

    /// Whether a thread of the VMM cannot go on before its event is read.
    func hasUnreadChanges(_ number: Int) -> Bool { !isReleased(number) && hasUnreadChanges(regions[number].userfault!) }

    private func hasUnreadChanges(_ userfault: borrowing UserfaultDescriptor) -> Bool { userfault.hasUnreadChanges }

    /// The page that holds an address of the VMM, or nil when it is none of ours. O(regions).
    func locate(_ address: UInt) -> (RegionIndex, PageIndex)? {
        for (number, region) in regions.enumerated() where region.userfault != nil {
            for piece in region.pieces {
                if let offset = piece.offset(of: address) { return (RegionIndex(number), offset >> region.pageSize.shift) }
            }
        }
        return nil
    }

    /// Into how many runs of addresses a region is mapped.
    func pieceCount(_ number: RegionIndex) -> Int { regions[Int(number)].pieces.count }

    /// The whole pages of a region's piece inside a run of the VMM's addresses.
    func pages(of number: RegionIndex, piece: Int, from start: UInt, to end: UInt) -> PageRange? {
        let region = regions[Int(number)]
        guard region.userfault != nil, let bytes = region.pieces[piece].offsets(from: start, to: end) else { return nil }
        let first = (bytes.lowerBound + region.pageSize.bytes - 1) >> region.pageSize.shift
        let last = bytes.upperBound >> region.pageSize.shift
        return first < last ? PageRange(region: number, first: first, count: last - first) : nil
    }

    /// Lets every thread that waits retry its access.
    ///
    /// - Returns: what the kernel refused, or nil.
    func wakeAll() -> SessionError? {
        for region in regions where region.userfault != nil {
            for piece in region.pieces {
                do throws(UserfaultError) {
                    try region.userfault!.wake(address: piece.guestAddress, lengthBytes: piece.lengthBytes)
                } catch {
                    return .memory("cannot wake the threads that wait for guest memory: \(error.description)")
                }
            }
        }
        return nil
    }

    /// Lets the threads that wait for a range retry their accesses.
    ///
    /// - Returns: what the kernel refused, or nil.
    func wake(_ range: PageRange) -> SessionError? {
        let region = regions[Int(range.region)]
        // Nobody waits for a region that was taken out.
        guard region.userfault != nil else { return nil }
        let outcome = region.pieces.install(bytes(range, region)) { address, _, lengthBytes in
            do throws(UserfaultError) {
                try region.userfault!.wake(address: address, lengthBytes: lengthBytes)
                return .installed
            } catch .systemCall(_, let code) {
                return .failed(code: code)
            } catch {
                return .failed(code: EINVAL)
            }
        }
        guard case .failed(let code) = outcome else { return nil }
        return .memory("cannot wake the threads that wait for guest memory: \(SystemError.text(code))")
    }

    /// Takes the userfaultfds out of the guest's way. Everything must be in: what is missing reads as zero from here on.
    ///
    /// - Returns: what the kernel refused, or nil.
    func unregisterAll() -> SessionError? {
        var failure: SessionError?
        for number in regions.indices {
            if let refusal = unregister(number) { failure = refusal }
        }
        return failure
    }

    /// The same for one region.
    func unregister(_ number: Int) -> SessionError? {
        let region = regions[number]
        guard region.userfault != nil else { return nil }
        var failure: SessionError?
        for piece in region.pieces {
            do throws(UserfaultError) {
                try region.userfault!.unregister(address: piece.guestAddress, lengthBytes: piece.lengthBytes)
            } catch .systemCall(_, EINVAL), .systemCall(_, ENOMEM), .systemCall(_, ESRCH) {
                // The VMM unmapped the region, or has ended: it has nothing registered any more.
            } catch {
                failure = .memory("cannot take the userfaultfd off guest memory: \(error.description)")
            }
        }
        return failure
    }

    // MARK: Regions that are taken out

    /// Whether a region was taken out: of its memory nothing is held here.
    func isReleased(_ number: Int) -> Bool { regions[number].userfault == nil }

    /// Closes a region's userfaultfd and file, and unmaps mapping B. Nobody may install, receive or fault there any more.
    func release(_ number: RegionIndex) { regions[Int(number)].release() }

    // MARK: Filling

    /// Where the bytes of a range are received.
    func target(_ range: PageRange) -> PayloadTarget {
        let region = regions[Int(range.region)]
        guard let base = unsafe region.base else { preconditionFailure("only mapped regions receive in place") }
        precondition(range.end << region.pageSize.shift <= region.lengthBytes, "a range lies in its mapping")
        // SAFETY: the range was just checked against the mapping, which lives as long as the session.
        return unsafe .memory(base + (range.first << region.pageSize.shift))
    }

    /// The bytes of the range lie in mapping B: maps them into the guest.
    func install(_ range: PageRange) -> InstallOutcome {
        let region = regions[Int(range.region)]
        return region.pieces.install(bytes(range, region)) { address, _, lengthBytes in
            region.userfault!.continueRange(address: address, lengthBytes: lengthBytes, pageSize: region.pageSize)
        }
    }

    /// Puts a range's bytes into mapping B, from this process's memory; nothing of it is visible yet.
    ///
    /// - Returns: why not; nil when they are there.
    func fill(_ range: PageRange, from source: UInt) -> String? {
        let region = regions[Int(range.region)]
        let start = range.first << region.pageSize.shift
        let lengthBytes = range.count << region.pageSize.shift
        guard let base = unsafe region.base, let bytes = unsafe UnsafeRawPointer(bitPattern: source) else {
            preconditionFailure("only mapped regions are filled, from slabs")
        }
        precondition(start + lengthBytes <= region.lengthBytes, "a range lies in its mapping")
        do throws(HostMemoryError) {
            // Memory that cannot be had is an error here, and a signal in the copy.
            try region.mapping?.populate(start..<(start + lengthBytes))
        } catch {
            return error.description
        }
        // SAFETY: the range was just checked against the mapping; the slab it comes from holds as much.
        unsafe (base + start).copyMemory(from: bytes, byteCount: lengthBytes)
        return nil
    }

    func isMapped(_ region: RegionIndex) -> Bool { regions[Int(region)].file != nil }

    /// Copies a range in from this process's memory. A page that the file of shared memory holds already is `failed(EEXIST)`.
    func copy(_ range: PageRange, from source: UInt) -> InstallOutcome {
        let region = regions[Int(range.region)]
        return region.pieces.install(bytes(range, region)) { address, offset, lengthBytes in
            region.userfault!.copy(
                source: source + UInt(offset), address: address, lengthBytes: lengthBytes, pageSize: region.pageSize,
                stopsAtPresent: region.file != nil)
        }
    }

    /// Makes one settled page visible: what mapping B holds, or zeros when it holds nothing.
    func resolve(_ page: PageRange) -> InstallOutcome {
        let region = regions[Int(page.region)]
        if region.file != nil {
            let outcome = install(page)
            guard outcome == .failed(code: EFAULT) else { return outcome }
        }
        // A huge page has no zero operation; for shared memory a page that got present meanwhile answers "already", its
        // thread is woken, faults once more, and finds it above.
        if region.pageSize == .fourKiB {
            return region.pieces.install(bytes(page, region)) { address, _, lengthBytes in
                region.userfault!.zero(address: address, lengthBytes: lengthBytes, pageSize: region.pageSize)
            }
        }
        return copy(page, from: zeroPage.memory.address)
    }

    /// Frees what mapping B holds of a range, so that it reads as zero.
    ///
    /// - Returns: why it could not, or nil.
    func erase(_ range: PageRange) -> String? {
        let region = regions[Int(range.region)]
        guard region.file != nil else { return nil }
        let start = region.fileOffset + range.first << region.pageSize.shift
        do throws(HostMemoryError) {
            try region.file?.punchHole(start..<(start + range.count << region.pageSize.shift))
            return nil
        } catch {
            return error.description
        }
    }

    private func bytes(_ range: PageRange, _ region: Region) -> Range<Int> {
        range.first << region.pageSize.shift..<range.end << region.pageSize.shift
    }
}
