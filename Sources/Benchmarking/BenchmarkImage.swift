import Demonstration
import Glibc
import HostMemory
import PageCore

/// A memory file for a source to serve, in /dev/shm, every page of it different and none zero; removed at the end of its life.
struct BenchmarkImage: ~Copyable {
    let path: String
    let pageCount: Int

    init(lengthBytes: Int) throws(BenchmarkError) {
        path = "/dev/shm/pageferry-bench.\(getpid()).\(MonotonicClock.nowNanoseconds())"
        pageCount = lengthBytes >> PageSize.fourKiB.shift
        // SAFETY: the path is terminated and lives for the call.
        let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw BenchmarkError("cannot create \(path): error \(errno)") }
        do {
            guard ftruncate(descriptor, off_t(lengthBytes)) == 0 else {
                throw BenchmarkError("cannot give \(path) \(lengthBytes) bytes: error \(errno)")
            }
            let file = try MemoryFile(adopting: descriptor, name: path)
            let mapping = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            Self.fill(mapping)
        } catch {
            unsafe unlink(path)
            throw error as? BenchmarkError ?? BenchmarkError("\(error)")
        }
    }

    deinit { unsafe unlink(path) }

    /// The first word of page `page`.
    static func firstWord(_ page: PageIndex) -> UInt64 { UInt64(page) &* 0x9E37_79B9_7F4A_7C15 | 1 }

    private static func fill(_ mapping: borrowing MappedMemory) {
        for page in 0..<mapping.pageCount {
            let first = firstWord(page)
            mapping.withMutableBytes(page << 12..<(page + 1) << 12) { bytes in
                for word in 0..<512 { bytes.storeBytes(of: first &+ UInt64(word), toByteOffset: word * 8, as: UInt64.self) }
            }
        }
    }
}
