/// A QEMU's own version.
public struct QemuVersion: Sendable, Hashable, Comparable, CustomStringConvertible {
    public let major: Int
    public let minor: Int
    public let micro: Int

    public init(major: Int, minor: Int, micro: Int = 0) {
        self.major = major
        self.minor = minor
        self.micro = micro
    }

    /// From here on x-ignore-shared leaves out only RAM whose file has a name: memory-backend-file, no longer memfds.
    /// Source: `migrate_ram_is_ignored` in QEMU's migration/ram.c.
    static let ignoresNamedFilesOnly = QemuVersion(major: 8, minor: 1)

    public static func < (one: QemuVersion, other: QemuVersion) -> Bool {
        (one.major, one.minor, one.micro) < (other.major, other.minor, other.micro)
    }

    public var description: String { "\(major).\(minor).\(micro)" }
}

/// What QEMU says of its guest (`query-status`) and of its migration (`query-migrate`; "none" before the first).
public struct QemuStatus: Sendable, Hashable {
    public let guest: String
    public let migration: String
}
