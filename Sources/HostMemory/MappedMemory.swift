import CShims
import Glibc
import PageCore

/// A mapping of this process, unmapped at the end of its life: of a memory file (the daemon's mapping B) or anonymous.
///
/// Its bytes may be changed at any time by other processes that map the same file; every access through this type is a
/// plain load or store, which is all that a page's bytes need.
@safe public struct MappedMemory: ~Copyable, @unchecked Sendable {
    /// The first byte. Valid for the life of this value; reads and writes stay inside `lengthBytes`.
    @unsafe public let pointer: UnsafeMutableRawPointer
    public let lengthBytes: Int
    public let pageSize: PageSize
    public let access: MemoryFile.Access

    /// Maps [offset, offset + lengthBytes) of `file`, shared, aligned to the file's pages.
    ///
    /// Nothing is allocated by mapping. Both bounds are whole pages inside the file: access beyond it would be a SIGBUS.
    ///
    /// - Parameters:
    ///   - reserves: whether huge pages are set aside for what is absent, so that writing to it cannot fail.
    ///   - pageSize: in which pages the mapping is spoken of; at least the file's own, which is the default.
    public init(
        of file: borrowing MemoryFile, offset: Int = 0, lengthBytes: Int, access: MemoryFile.Access, reserves: Bool = true,
        pageSize: PageSize? = nil
    ) throws(HostMemoryError) {
        precondition((pageSize?.bytes ?? .max) >= file.pageSize.bytes, "a page of the file is not cut")
        let fileBytes = try file.lengthBytes()
        let mask = file.pageSize.bytes - 1
        guard offset >= 0, lengthBytes > 0, (offset | lengthBytes) & mask == 0, offset <= fileBytes,
            lengthBytes <= fileBytes - offset
        else { throw .outsideFile(offset: offset, lengthBytes: lengthBytes, fileBytes: fileBytes) }
        let protection = access == .readOnly ? PROT_READ : PROT_READ | PROT_WRITE
        // A reader of huge pages reserves none: it looks only at those that are there.
        let flags = MAP_SHARED | (access == .readOnly || !reserves ? MAP_NORESERVE : 0)
        // SAFETY: a fresh mapping at a place of the kernel's choice; no existing memory is touched.
        guard let address = unsafe mmap(nil, lengthBytes, protection, flags, file.rawValue, off_t(offset)),
            unsafe address != MAP_FAILED
        else { throw .cannotMap(lengthBytes: lengthBytes, pageSizeBytes: file.pageSize.bytes, code: errno) }
        unsafe pointer = address
        self.lengthBytes = lengthBytes
        self.pageSize = pageSize ?? file.pageSize
        self.access = access
    }

    /// Maps `lengthBytes`, a whole number of pages, of private zeros. With `.twoMiB`: of reserved huge pages.
    ///
    /// From 2 MiB on the mapping is aligned to 2 MiB, so that transparent huge pages and UFFDIO_MOVE can take it whole.
    public init(anonymousBytes lengthBytes: Int, pageSize: PageSize = .fourKiB) throws(HostMemoryError) {
        guard lengthBytes > 0, lengthBytes & (pageSize.bytes - 1) == 0 else {
            throw .outsideFile(offset: 0, lengthBytes: lengthBytes, fileBytes: lengthBytes)
        }
        let huge = PageSize.twoMiB.bytes
        let slackBytes = pageSize == .fourKiB && lengthBytes >= huge ? huge : 0
        var flags = Int32(PAGEFERRY_MAP_ANONYMOUS_PRIVATE)
        if pageSize == .twoMiB { flags |= Int32(PAGEFERRY_MAP_HUGETLB_2MIB) }
        // SAFETY: a fresh mapping at a place of the kernel's choice; no existing memory is touched.
        guard let raw = unsafe mmap(nil, lengthBytes + slackBytes, PROT_READ | PROT_WRITE, flags, -1, 0),
            unsafe raw != MAP_FAILED
        else { throw .cannotMap(lengthBytes: lengthBytes, pageSizeBytes: pageSize.bytes, code: errno) }
        let head = slackBytes == 0 ? 0 : (huge - Int(bitPattern: raw) & (huge - 1)) & (huge - 1)
        // SAFETY: both ends lie inside the mapping just made, and nothing refers to them.
        if head > 0 { unsafe munmap(raw, head) }
        if slackBytes > head { unsafe munmap(raw + head + lengthBytes, slackBytes - head) }
        unsafe pointer = raw + head
        self.lengthBytes = lengthBytes
        self.pageSize = pageSize
        access = .readWrite
    }

    deinit {
        // SAFETY: this value alone owns the mapping, and no span over it outlives it.
        unsafe munmap(pointer, lengthBytes)
    }

    /// The first byte's address, as userfaultfd and io_uring take it: good only while this value lives. Keep it in a property.
    public var address: UInt { unsafe UInt(bitPattern: pointer) }

    /// The number of whole pages.
    public var pageCount: Int { lengthBytes >> pageSize.shift }

    /// Reads `bytes`, offsets into this mapping, in `body`. A hole of a mapped file is allocated by being read.
    @inlinable
    public borrowing func withBytes<Result, Failure: Error>(
        _ bytes: Range<Int>, _ body: (RawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        precondition(bytes.lowerBound >= 0 && bytes.upperBound <= lengthBytes, "a read stays inside its mapping")
        // SAFETY: the bounds were just checked, and the mapping lives as long as this borrow.
        return try body(unsafe RawSpan(_unsafeStart: UnsafeRawPointer(pointer + bytes.lowerBound), byteCount: bytes.count))
    }

    /// Writes to `bytes`, offsets into this mapping, in `body`.
    ///
    /// Borrowing, since the memory is shared with other processes anyhow: writers of different pages need no exclusion.
    @inlinable
    public borrowing func withMutableBytes<Result, Failure: Error>(
        _ bytes: Range<Int>, _ body: (inout MutableRawSpan) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        precondition(access == .readWrite, "a write needs a writable mapping")
        precondition(bytes.lowerBound >= 0 && bytes.upperBound <= lengthBytes, "a write stays inside its mapping")
        // SAFETY: the bounds were just checked, and the mapping lives as long as this borrow.
        var span = unsafe MutableRawSpan(_unsafeStart: pointer + bytes.lowerBound, byteCount: bytes.count)
        return try body(&span)
    }
}

// MARK: - Advice

extension MappedMemory {
    /// Makes every page of `bytes` present and writable, by MADV_POPULATE_WRITE; contents stay. Without `bytes`: of all.
    ///
    /// The first touch of fresh memory is several times slower than the next: populate buffers before time matters.
    public borrowing func populate(_ bytes: Range<Int>? = nil) throws(HostMemoryError) {
        let range = bytes ?? 0..<lengthBytes
        do throws(HostMemoryError) {
            try advise(range, PAGEFERRY_MADVISE_POPULATE_WRITE)
        } catch .systemCall(_, let code) {
            throw .cannotPopulate(lengthBytes: range.count, code: code)
        }
    }

    /// Drops the pages of `bytes` (MADV_DONTNEED): anonymous ones read as zero afterwards, those of a file are only unmapped.
    public borrowing func discard(_ bytes: Range<Int>) throws(HostMemoryError) {
        try advise(bytes, PAGEFERRY_MADVISE_DONTNEED)
    }

    /// Asks for transparent huge pages, where the host has them on for those who ask.
    public borrowing func preferHugePages() throws(HostMemoryError) {
        try advise(0..<lengthBytes, PAGEFERRY_MADVISE_HUGEPAGE)
    }

    private borrowing func advise(_ bytes: Range<Int>, _ advice: Int32) throws(HostMemoryError) {
        precondition(bytes.lowerBound >= 0 && bytes.upperBound <= lengthBytes, "advice stays inside its mapping")
        // A signal may interrupt population of a large range; what was populated stays so, and the call is repeated.
        // SAFETY: the range lies inside this mapping, and none of the three kinds of advice unmaps it.
        while unsafe madvise(pointer + bytes.lowerBound, bytes.count, advice) != 0 {
            guard errno == EINTR || errno == EAGAIN else { throw .systemCall(call: .advise, code: errno) }
        }
    }
}
