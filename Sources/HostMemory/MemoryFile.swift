import CShims
import Glibc
import PageCore

/// A file that is memory: on tmpfs or hugetlbfs, a memfd, or any regular file. Owns its descriptor.
public struct MemoryFile: ~Copyable, Sendable {
    /// What a file may be opened for.
    public enum Access: Sendable, Hashable {
        case readOnly
        case readWrite
    }

    /// The descriptor, borrowed: to be sent or mapped. Never close it.
    public let rawValue: Int32
    /// The page size of the file system: 2 MiB on hugetlbfs (from fstatfs), 4 KiB elsewhere.
    public let pageSize: PageSize
    /// Whether the file lies on hugetlbfs, where a read through a mapping allocates and SEEK_DATA knows no holes.
    public let isHugetlbfs: Bool

    /// Opens the file at `path`.
    public init(path: String, access: Access) throws(HostMemoryError) {
        let flags = (access == .readOnly ? O_RDONLY : O_RDWR) | O_CLOEXEC
        // SAFETY: the path is terminated and lives for the call.
        let descriptor = unsafe open(path, flags)
        guard descriptor >= 0 else { throw .cannotOpen(path: path, code: errno) }
        try self.init(adopting: descriptor, name: path)
    }

    /// Takes over an open descriptor, and closes it when it is no memory file. `name` is for errors.
    public init(adopting descriptor: Int32, name: String = "memory file") throws(HostMemoryError) {
        let found: (PageSize, Bool)
        do throws(HostMemoryError) {
            found = try Self.inspect(descriptor, name)
        } catch {
            close(descriptor)
            throw error
        }
        rawValue = descriptor
        (pageSize, isHugetlbfs) = found
    }

    /// Creates an unnamed file (memfd) of `lengthBytes` zeros; with `.twoMiB` on hugetlbfs, whose pages must be reserved.
    public static func create(
        name: String, lengthBytes: Int, pageSize: PageSize = .fourKiB
    ) throws(HostMemoryError) -> MemoryFile {
        var flags = UInt32(PAGEFERRY_MEMFD_CLOEXEC)
        if pageSize == .twoMiB { flags |= UInt32(PAGEFERRY_MEMFD_HUGETLB_2MIB) }
        // SAFETY: the name is terminated and lives for the call.
        let descriptor = unsafe pageferry_memfd_create(name, flags)
        guard descriptor >= 0 else { throw .cannotCreate(name: name, lengthBytes: lengthBytes, code: -descriptor) }
        let file = try MemoryFile(adopting: descriptor, name: name)
        guard ftruncate(descriptor, off_t(lengthBytes)) == 0 else {
            throw .cannotCreate(name: name, lengthBytes: lengthBytes, code: errno)
        }
        return file
    }

    deinit { close(rawValue) }

    /// The length in bytes now.
    public borrowing func lengthBytes() throws(HostMemoryError) -> Int {
        Int(try Self.status(rawValue).st_size)
    }

    /// Another owner of the same open file.
    public borrowing func duplicated() throws(HostMemoryError) -> MemoryFile {
        let copy = fcntl(rawValue, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw .systemCall(call: .duplicate, code: errno) }
        return try MemoryFile(adopting: copy)
    }

    /// Whether `other` is the same file (same inode), whatever its path.
    public borrowing func isSameFile(as other: borrowing MemoryFile) throws(HostMemoryError) -> Bool {
        let mine = try Self.status(rawValue)
        let theirs = try Self.status(other.rawValue)
        return mine.st_dev == theirs.st_dev && mine.st_ino == theirs.st_ino
    }

    private static func inspect(_ descriptor: Int32, _ name: String) throws(HostMemoryError) -> (PageSize, Bool) {
        guard try status(descriptor).st_mode & S_IFMT == S_IFREG else { throw .notAFile(name: name) }
        var type: Int64 = 0
        var blockBytes: Int64 = 0
        // SAFETY: the shim writes two integers, these variables.
        let answer = unsafe pageferry_file_system(descriptor, &type, &blockBytes)
        guard answer == 0 else { throw .systemCall(call: .fileSystem, code: -answer) }
        guard type == Int64(PAGEFERRY_HUGETLBFS_MAGIC) else { return (.fourKiB, false) }
        guard let pageSize = PageSize(bytes: Int(blockBytes)) else {
            throw .cannotMap(lengthBytes: 0, pageSizeBytes: Int(blockBytes), code: EOPNOTSUPP)
        }
        return (pageSize, true)
    }

    private static func status(_ descriptor: Int32) throws(HostMemoryError) -> stat {
        var status = stat()
        // SAFETY: the kernel fills this variable, whose type is its own.
        guard unsafe fstat(descriptor, &status) == 0 else { throw .systemCall(call: .status, code: errno) }
        return status
    }
}
