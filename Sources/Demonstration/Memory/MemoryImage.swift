import Glibc
import HostMemory
import PageCore

/// The memory file a demonstration's source serves: made in /dev/shm, removed at the end of its life.
public struct MemoryImage: ~Copyable, Sendable {
    public let path: String

    /// - Parameter dataBytes: how much of the file's start holds data on every page, and the rest nothing; nil mixes data, zero
    ///   pages and holes.
    public init(lengthBytes: Int, dataBytes: Int? = nil) throws(DemonstrationError) {
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
            if let dataBytes {
                for page in 0..<(dataBytes >> PageSize.fourKiB.shift) { memory.write(page, version: 0) }
                return
            }
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
