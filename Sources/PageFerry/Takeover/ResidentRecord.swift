import Glibc
import HostMemory
import PageCore

/// Which pages of a session are settled, in a small file that outlives this process: a bit a page, for the daemon that takes over
/// when this one dies.
///
/// The file is mapped; a bit is set by one store to the page cache, which a process that is killed leaves behind whole. So no
/// write can be torn, and no page looks resident that is not: its bit is set after its bytes are complete. It says nothing after
/// the host itself has gone down, when the guest is gone too.
///
/// Layout, little endian: the magic (64 bits), the version (64), the number of session pages (64); from byte 4096 on the bits,
/// lowest first, in whole pages.
public final class ResidentRecord: Sendable {
    private static let magic: UInt64 = 0x4E45_4449_5345_5246
    private static let version: UInt64 = 1
    private static let headBytes = 4096

    private let mapping: MappedMemory
    public let path: String
    let pageCount: Int

    private static func fileBytes(_ pageCount: Int) -> Int { headBytes + (((pageCount + 7) / 8 + 4095) & ~4095) }

    /// Makes the record of a session that begins, in place of whatever is there.
    public static func create(path: String, layout: RegionLayout) throws(SessionError) -> ResidentRecord {
        // SAFETY: here and below: the path is terminated and lives for the calls.
        unsafe unlink(path)
        let descriptor = unsafe Glibc.open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .memory("cannot make '\(path)': \(SystemError.text(errno))") }
        defer { close(descriptor) }
        guard ftruncate(descriptor, off_t(fileBytes(layout.totalPages))) == 0 else {
            throw .memory("cannot make '\(path)': \(SystemError.text(errno))")
        }
        let record = try ResidentRecord(path: path, pageCount: layout.totalPages)
        record.store(version, word: 1)
        record.store(UInt64(layout.totalPages), word: 2)
        // Last: without it the file is none.
        record.store(magic, word: 0)
        return record
    }

    /// Opens the record that a daemon before this one has left.
    public static func open(path: String, layout: RegionLayout) throws(SessionError) -> ResidentRecord {
        let record = try ResidentRecord(path: path, pageCount: layout.totalPages)
        guard record.load(word: 0) == magic, record.load(word: 1) == version, record.load(word: 2) == UInt64(layout.totalPages) else {
            throw .memory("'\(path)' is not the record of this session's pages; without it nobody can tell which pages the guest has")
        }
        return record
    }

    private init(path: String, pageCount: Int) throws(SessionError) {
        self.path = path
        self.pageCount = pageCount
        do throws(HostMemoryError) {
            let file = try MemoryFile(path: path, access: .readWrite)
            mapping = try MappedMemory(of: file, lengthBytes: Self.fileBytes(pageCount), access: .readWrite)
        } catch {
            throw .memory(error.description)
        }
    }

    // SAFETY: of both: words of the head and the bits lie inside the mapping, whose length follows from `pageCount`; one thread,
    // the session's, writes.
    private func load(word: Int) -> UInt64 { unsafe mapping.pointer.load(fromByteOffset: 8 * word, as: UInt64.self) }
    private func store(_ value: UInt64, word: Int) {
        unsafe mapping.pointer.storeBytes(of: value, toByteOffset: 8 * word, as: UInt64.self)
    }

    /// Puts a run of session pages on record. O(pages / 64).
    func insert(_ pages: Range<Int>) {
        precondition(pages.lowerBound >= 0 && pages.upperBound <= pageCount, "a run lies in its session")
        var page = pages.lowerBound
        while page < pages.upperBound {
            let stop = min(pages.upperBound, (page | 63) + 1)
            let count = UInt64(stop - page)
            let mask: UInt64 = (count == 64 ? ~0 : (1 << count) - 1) << UInt64(page & 63)
            let word = Self.headBytes / 8 + (page >> 6)
            let present = load(word: word)
            if present & mask != mask { store(present | mask, word: word) }
            page = stop
        }
    }

    /// Everything on record.
    func pages() -> PageBitmap {
        var bitmap = PageBitmap(pageCount: pageCount)
        for first in stride(from: 0, to: pageCount, by: 64) {
            var bits = load(word: Self.headBytes / 8 + (first >> 6))
            if pageCount - first < 64 { bits &= (1 << UInt64(pageCount - first)) - 1 }
            if bits == ~0 {
                bitmap.insert(first..<(first + 64))
                continue
            }
            while bits != 0 {
                bitmap.insert(first + bits.trailingZeroBitCount)
                bits &= bits - 1
            }
        }
        return bitmap
    }
}
