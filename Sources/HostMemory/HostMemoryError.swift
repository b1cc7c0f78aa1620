import Glibc

/// Why memory could not be opened, mapped or changed.
public enum HostMemoryError: Error, Sendable, Hashable {
    /// The path could not be opened.
    case cannotOpen(path: String, code: Int32)
    /// The path or descriptor is no regular file: memory is served from files.
    case notAFile(name: String)
    /// A memfd could not be made.
    case cannotCreate(name: String, lengthBytes: Int, code: Int32)
    /// Offset or length is not a whole number of pages, or lies outside the file.
    case outsideFile(offset: Int, lengthBytes: Int, fileBytes: Int)
    /// The mapping was refused. ENOMEM with huge pages: too few are reserved.
    case cannotMap(lengthBytes: Int, pageSizeBytes: Int, code: Int32)
    /// Memory could not be populated: it, or the pool of huge pages, is used up.
    case cannotPopulate(lengthBytes: Int, code: Int32)
    /// Another call failed.
    case systemCall(call: Call, code: Int32)

    /// The calls named in errors.
    public enum Call: String, Sendable {
        case status = "fstat(2) on a memory file"
        case fileSystem = "fstatfs(2) on a memory file"
        case seek = "lseek(2) on a memory file"
        case read = "pread(2) on a memory file"
        case allocate = "allocating a memory file"
        case punchHole = "punching a hole in a memory file"
        case resize = "ftruncate(2) on a memory file"
        case advise = "madvise(2)"
        case duplicate = "duplicating a memory file's descriptor"
    }
}

extension HostMemoryError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .cannotOpen(let path, let code):
            "cannot open memory file '\(path)': \(text(of: code))"
        case .notAFile(let name):
            "'\(name)' is no regular file: give a file on tmpfs or hugetlbfs, or a memfd"
        case .cannotCreate(let name, let lengthBytes, let code):
            "cannot create the memory file '\(name)' of \(lengthBytes) bytes: \(text(of: code))"
        case .outsideFile(let offset, let lengthBytes, let fileBytes):
            "bytes \(offset)+\(lengthBytes) are not whole pages inside a memory file of \(fileBytes) bytes"
        case .cannotMap(let lengthBytes, let pageSizeBytes, let code):
            "cannot map \(lengthBytes) bytes of \(pageSizeBytes)-byte pages: \(text(of: code))"
                + (pageSizeBytes > 4096 ? "; reserve huge pages with /proc/sys/vm/nr_hugepages" : "")
        case .cannotPopulate(let lengthBytes, let code):
            "cannot populate \(lengthBytes) bytes of memory: \(text(of: code))"
        case .systemCall(let call, let code):
            "\(call.rawValue) failed: \(text(of: code))"
        }
    }
}

/// The system's text for an errno. Allocates; for messages only.
private func text(of code: Int32) -> String {
    // SAFETY: glibc's strerror returns a terminated string, kept for this thread until its next call.
    unsafe String(cString: strerror(code))
}
