/// What a mapping is to somebody who moves its process.
public enum MappingKind: String, Sendable, Hashable {
    /// The process's own: served, as far as it has pages.
    case ownMemory = "private"
    /// Memory that it may share with others: served, once for all its mappings.
    case sharedMemory = "shared"
    /// As its file has it: whoever rebuilds the process maps the file.
    case file
    /// The kernel's or a device's: never served.
    case kernel
}

extension MemoryMapping {
    /// A name that the kernel writes in brackets for memory, and not for its own pages.
    private var isNamedMemory: Bool {
        name.isEmpty || name == "[heap]" || name == "[stack]" || name.hasPrefix("[anon:") || name.hasPrefix("[anon_shmem:")
    }

    private var isDeleted: Bool { name.hasSuffix(" (deleted)") }

    /// Whether there is a device behind it, or one of the kernel's objects.
    private var isKernels: Bool {
        if flags.contains(.device) || name.hasPrefix("anon_inode:") { return true }
        if name.hasPrefix("[") { return !isNamedMemory }
        return name.hasPrefix("/dev/") && !name.hasPrefix("/dev/shm/") && !name.hasPrefix("/dev/hugepages/") && !isZeroDevice
    }

    /// Zeros to begin with, of nobody else: what `MAP_ANONYMOUS` gives, or /dev/zero did before it.
    private var isZeroDevice: Bool { name == "/dev/zero" || name == "/dev/zero (deleted)" }

    /// Memory that lies in no file anybody else could open.
    private var isMemoryByName: Bool {
        isNamedMemory || isZeroDevice || name.hasPrefix("/memfd:") || name.hasPrefix("/SYSV") || name.hasPrefix("/dev/shm/")
            || name.hasPrefix("/anon_hugepage")
    }

    /// Private memory that begins as zeros: what it has no page of reads as zero.
    public var beginsAsZeros: Bool {
        !isShared && (isNamedMemory && file.inode == 0 || isZeroDevice || name.hasPrefix("/anon_hugepage"))
    }

    /// - Parameters:
    ///   - hasOwnPages: whether the process has changed pages of a private mapping.
    ///   - isMemoryFile: whether the file behind a shared mapping is one in memory (tmpfs, hugetlbfs); nil when that is not known.
    public func kind(hasOwnPages: Bool, isMemoryFile: Bool?) -> MappingKind {
        if isKernels { return .kernel }
        if isShared { return isMemoryFile ?? isMemoryByName ? .sharedMemory : .file }
        // What nobody can open any more must come along, changed or not.
        return beginsAsZeros || hasOwnPages || isMemoryByName || isDeleted ? .ownMemory : .file
    }
}
