import CShims
import Glibc
import PageCore

extension MemoryFile {
    /// The first run of bytes at or after `offset` that the file holds, which may contain zeros; nil when only a hole
    /// follows. Two system calls.
    ///
    /// The bytes before the run are a hole: they read as zero, but reading them through a mapping would allocate them.
    /// On hugetlbfs the whole file is reported as data: the kernel does not tell its holes (see `readsAsZero`).
    public borrowing func nextDataRun(from offset: Int) throws(HostMemoryError) -> Range<Int>? {
        let start = lseek(rawValue, off_t(offset), PAGEFERRY_SEEK_DATA)
        if start < 0 {
            guard errno == ENXIO else { throw .systemCall(call: .seek, code: errno) }
            return nil
        }
        let end = lseek(rawValue, start, PAGEFERRY_SEEK_HOLE)
        guard end >= 0 else { throw .systemCall(call: .seek, code: errno) }
        return Int(start)..<Int(end)
    }

    /// The first byte at or after `offset` that the file holds; nil when only a hole follows. One system call, which costs
    /// nothing where there is data and little where there is a hole.
    public borrowing func nextData(from offset: Int) throws(HostMemoryError) -> Int? {
        let start = lseek(rawValue, off_t(offset), PAGEFERRY_SEEK_DATA)
        guard start < 0 else { return Int(start) }
        guard errno == ENXIO else { throw .systemCall(call: .seek, code: errno) }
        return nil
    }

    /// Allocates the pages of `bytes` that are holes (`fallocate`), on kinds of memory that know it; what is there stays.
    ///
    /// - Throws: when there is not enough memory.
    public borrowing func allocate(_ bytes: Range<Int>) throws(HostMemoryError) {
        guard !bytes.isEmpty else { return }
        let answer = pageferry_fallocate(rawValue, 0, Int64(bytes.lowerBound), Int64(bytes.count))
        guard [0, -EOPNOTSUPP, -ENODEV, -ENOSYS].contains(answer) else { throw .systemCall(call: .allocate, code: -answer) }
    }

    /// Gives the pages of `bytes` back: they read as zero from now on, through every mapping, and are freed.
    public borrowing func punchHole(_ bytes: Range<Int>) throws(HostMemoryError) {
        guard !bytes.isEmpty else { return }
        let answer = pageferry_fallocate(
            rawValue, PAGEFERRY_PUNCH_HOLE, Int64(bytes.lowerBound), Int64(bytes.count))
        guard answer == 0 else { throw .systemCall(call: .punchHole, code: -answer) }
    }

    /// Whether `bytes` read as zero, found by reading through `scratch` in place of a mapping: a hole is not allocated by it.
    ///
    /// For hugetlbfs. Stops at the first piece with another byte; the first piece is small, since data shows at once.
    public borrowing func readsAsZero(
        _ bytes: Range<Int>, scratch: inout MappedMemory
    ) throws(HostMemoryError) -> Bool {
        var offset = bytes.lowerBound
        var pieceBytes = min(4096, scratch.lengthBytes)
        while offset < bytes.upperBound {
            let wanted = min(pieceBytes, bytes.upperBound - offset)
            // SAFETY: the scratch mapping is writable, exclusively ours here, and at least `wanted` bytes long.
            let count = unsafe pread(rawValue, scratch.pointer, wanted, off_t(offset))
            if count < 0 {
                if errno == EINTR { continue }
                throw .systemCall(call: .read, code: errno)
            }
            // Past the end of the file there is nothing; a mapping reads zeros up to the page's end.
            if count == 0 { return true }
            // SAFETY: `count` bytes were just written there.
            guard unsafe isAllZero(UnsafeRawPointer(scratch.pointer), count) else { return false }
            offset += count
            pieceBytes = scratch.lengthBytes
        }
        return true
    }
}
