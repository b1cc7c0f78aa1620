import Glibc
import HostMemory
import PageCore

/// The memory file the demonstration's source serves: made in /dev/shm, removed at the end of its life.
public struct MemoryImage: ~Copyable {
    public let path: String

    public init(lengthBytes: Int) throws(DemonstrationError) {
        path = "/dev/shm/pageferry-demo.\(getpid()).\(MonotonicClock.nowNanoseconds())"
        // SAFETY: the path is terminated and lives for the call.
        let descriptor = unsafe open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw DemonstrationError("cannot create \(path): error \(errno)") }
        do {
            guard ftruncate(descriptor, off_t(lengthBytes)) == 0 else {
                throw DemonstrationError("cannot give \(path) \(lengthBytes) bytes: error \(errno)")
            }
            let file = try MemoryFile(adopting: descriptor, name: path)
            let mapping = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            let memory = unsafe PatternedMemory(address: mapping.address, pageCount: mapping.pageCount)
            for page in 0..<memory.pageCount {
                switch MemoryPattern.content(of: page) {
                case .hole: break
                case .zero: memory.writeZeros(page)
                case .data, .rewritten: memory.write(page, version: 0)
                }
            }
        } catch {
            unsafe unlink(path)
            throw error as? DemonstrationError ?? DemonstrationError("\(error)")
        }
    }

    deinit { unsafe unlink(path) }
}
