/// One mapping of a process, as /proc/PID/maps and smaps describe it (proc(5)).
public struct MemoryMapping: Sendable, Hashable {
    public struct Permissions: OptionSet, Sendable, Hashable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let read = Permissions(rawValue: 1)
        public static let write = Permissions(rawValue: 2)
        public static let execute = Permissions(rawValue: 4)
        /// A shared mapping; else a private one.
        public static let shared = Permissions(rawValue: 8)
    }

    /// The file behind a mapping; both 0 where there is none.
    public struct File: Sendable, Hashable {
        public var device: UInt64
        public var inode: UInt64
    }

    /// What smaps says of the mapping, as far as it matters here.
    public struct Flags: OptionSet, Sendable, Hashable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// A device's memory, or the kernel's (`io`, `pf`): no pages of the process's own.
        public static let device = Flags(rawValue: 1)
        /// A userfaultfd answers for what is missing there (`um`, `ui`).
        public static let userfault = Flags(rawValue: 2)
    }

    public var addresses: Range<UInt>
    public var permissions: Permissions
    /// Where it begins in its file, in bytes.
    public var fileOffset: UInt64
    public var file: File
    /// A path, or the kernel's own word in brackets; empty for most private memory. For people, and to tell kinds apart: the kernel writes
    /// a line end as \012, and nothing else is escaped.
    public var name: String
    public var flags: Flags = []

    public var isShared: Bool { permissions.contains(.shared) }

    /// Reads the whole of a `maps` or `smaps` file.
    public static func parse(_ text: String) throws(ProcessMemoryError) -> [MemoryMapping] {
        var mappings: [MemoryMapping] = []
        for line in text.utf8.split(separator: UInt8(ascii: "\n")) {
            // A mapping begins with a hexadecimal digit in lower case, what is said of it with an upper-case letter.
            if let first = line.first, (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(first) {
                guard !mappings.isEmpty else { throw .malformedMapping(line: String(Substring(line))) }
                mappings[mappings.count - 1].flags.formUnion(flags(Substring(line)))
                continue
            }
            guard let mapping = MemoryMapping(line: Substring(line)) else { throw .malformedMapping(line: String(Substring(line))) }
            guard mapping.addresses.lowerBound >= mappings.last?.addresses.upperBound ?? 0 else {
                throw .malformedMapping(line: String(Substring(line)))
            }
            mappings.append(mapping)
        }
        return mappings
    }

    /// A line such as `7f0c8000-7f0c9000 rw-p 00001000 08:01 1234      /usr/lib/a file`.
    private init?(line: Substring) {
        let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
        guard fields.count >= 5, let addresses = Self.addresses(fields[0]), let permissions = Permissions(fields[1]),
            let offset = UInt64(fields[2], radix: 16), let device = Self.device(fields[3]), let inode = UInt64(fields[4])
        else { return nil }
        self.addresses = addresses
        self.permissions = permissions
        fileOffset = offset
        file = File(device: device, inode: inode)
        // What is left begins where its column does; spaces at its end are its own.
        name = fields.count == 6 ? String(fields[5].drop { $0 == " " }) : ""
    }

    private static func addresses(_ field: Substring) -> Range<UInt>? {
        let ends = field.split(separator: "-", omittingEmptySubsequences: false)
        guard ends.count == 2, let start = UInt(ends[0], radix: 16), let end = UInt(ends[1], radix: 16), start < end,
            (start | end) & 0xFFF == 0
        else { return nil }
        return start..<end
    }

    private static func device(_ field: Substring) -> UInt64? {
        let parts = field.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let major = UInt32(parts[0], radix: 16), let minor = UInt32(parts[1], radix: 16) else { return nil }
        return UInt64(major) << 32 | UInt64(minor)
    }

    private static func flags(_ line: Substring) -> Flags {
        guard line.hasPrefix("VmFlags:") else { return [] }
        var flags: Flags = []
        for word in line.dropFirst(8).split(separator: " ") {
            switch word {
            case "io", "pf": flags.insert(.device)
            case "um", "ui": flags.insert(.userfault)
            default: break
            }
        }
        return flags
    }
}

extension MemoryMapping.Permissions {
    /// Four letters: `rwxp` or `rwxs`, dashes for what is not there.
    init?(_ field: Substring) {
        let letters = Array(field)
        guard letters.count == 4, letters[3] == "p" || letters[3] == "s" else { return nil }
        var permissions: Self = letters[3] == "s" ? .shared : []
        for (letter, (expected, permission)) in zip(letters, [("r", Self.read), ("w", .write), ("x", .execute)] as [(Character, Self)]) {
            guard letter == expected || letter == "-" else { return nil }
            if letter == expected { permissions.insert(permission) }
        }
        self = permissions
    }

    var letters: String {
        (contains(.read) ? "r" : "-") + (contains(.write) ? "w" : "-") + (contains(.execute) ? "x" : "-") + (contains(.shared) ? "s" : "p")
    }
}
