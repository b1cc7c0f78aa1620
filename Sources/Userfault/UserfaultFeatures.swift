/// What a userfaultfd can do and tell: the bits of `struct uffdio_api.features` (linux/userfaultfd.h).
public struct UserfaultFeatures: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64

    @inlinable
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// Write-protection faults on anonymous memory (5.7).
    public static let writeProtection = Self(rawValue: 1 << 0)
    /// Fork events; needs CAP_SYS_PTRACE (4.11).
    public static let forkEvents = Self(rawValue: 1 << 1)
    /// Remap events (4.11).
    public static let remapEvents = Self(rawValue: 1 << 2)
    /// Remove events: pages the guest gave up by `madvise` (4.11).
    public static let removeEvents = Self(rawValue: 1 << 3)
    /// Missing faults on hugetlbfs (4.11).
    public static let missingHugetlbfs = Self(rawValue: 1 << 4)
    /// Missing faults on shared memory: tmpfs and memfd (4.11).
    public static let missingSharedMemory = Self(rawValue: 1 << 5)
    /// Unmap events (4.11).
    public static let unmapEvents = Self(rawValue: 1 << 6)
    /// SIGBUS in the faulting thread in place of events (4.14).
    public static let busSignal = Self(rawValue: 1 << 7)
    /// The faulting thread's id in each page fault (4.14).
    public static let threadIdentifier = Self(rawValue: 1 << 8)
    /// Minor faults on hugetlbfs (5.13).
    public static let minorHugetlbfs = Self(rawValue: 1 << 9)
    /// Minor faults on shared memory (5.14).
    public static let minorSharedMemory = Self(rawValue: 1 << 10)
    /// Unrounded fault addresses (5.18).
    public static let exactAddress = Self(rawValue: 1 << 11)
    /// Write-protection faults on shared memory and hugetlbfs (5.19).
    public static let writeProtectionSharedMemory = Self(rawValue: 1 << 12)
    /// Write-protection of pages that are not there yet (6.4).
    public static let writeProtectionUnpopulated = Self(rawValue: 1 << 13)
    /// Poisoned pages (6.6).
    public static let poison = Self(rawValue: 1 << 14)
    /// Write-protection resolved by the kernel, written pages found by PAGEMAP_SCAN (6.7).
    public static let writeProtectionAsynchronous = Self(rawValue: 1 << 15)
    /// Moving pages in place of copying them, within one process (6.8).
    public static let move = Self(rawValue: 1 << 16)

    /// What serving a shared memory file needs.
    public static let sharedMemory: Self = [.missingSharedMemory, .minorSharedMemory]
    /// What serving a hugetlbfs file needs.
    public static let hugetlbfs: Self = [.missingHugetlbfs, .minorHugetlbfs]

    static let names = [
        "write-protection", "fork events", "remap events", "remove events", "missing faults on hugetlbfs",
        "missing faults on shared memory", "unmap events", "SIGBUS", "thread ids", "minor faults on hugetlbfs",
        "minor faults on shared memory", "exact addresses", "write-protection of shared memory",
        "write-protection of absent pages", "poison", "asynchronous write-protection", "move",
    ]
}

extension UserfaultFeatures: CustomStringConvertible {
    public var description: String {
        (0..<64).filter { rawValue & (1 << UInt64($0)) != 0 }
            .map { $0 < Self.names.count ? Self.names[$0] : "bit \($0)" }
            .joined(separator: ", ")
    }
}

/// Which accesses of a range fault: `UFFDIO_REGISTER_MODE_*`.
public struct UserfaultModes: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64

    @inlinable
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// The page is not in memory.
    public static let missing = Self(rawValue: 1 << 0)
    /// The page is write-protected.
    public static let writeProtected = Self(rawValue: 1 << 1)
    /// The page is in the file's page cache, but not mapped here: what a writer on another mapping needs.
    public static let minor = Self(rawValue: 1 << 2)
}

/// Which operations the kernel offers on a registered range: bits of `struct uffdio_register.ioctls`.
public struct UserfaultOperations: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64

    @inlinable
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let wake = Self(rawValue: 1 << 0x02)
    public static let copy = Self(rawValue: 1 << 0x03)
    public static let zero = Self(rawValue: 1 << 0x04)
    public static let move = Self(rawValue: 1 << 0x05)
    public static let writeProtect = Self(rawValue: 1 << 0x06)
    public static let continueRange = Self(rawValue: 1 << 0x07)
    public static let poison = Self(rawValue: 1 << 0x08)
}
