/// A QEMU command line as a user wrote it, and what must be known of it to start it as a destination.
public struct QemuCommandLine: Sendable, Hashable {
    /// The program and its arguments.
    public let arguments: [String]
    /// The ids of the memory backends, in the order in which QEMU maps and hands them over.
    public let backendNames: [String]
    /// What the preload library is to look for, one entry a backend: a path, or "memfd:NAME".
    public let memoryPatterns: [String]

    /// Whether a QEMU of these arguments waits for a migration.
    public static func isIncoming(_ arguments: [String]) -> Bool {
        arguments.dropFirst().contains { $0 == "-incoming" || $0 == "--incoming" }
    }

    /// - Parameter isLaunched: somebody else has written the whole of it, and -incoming is theirs.
    public init(_ arguments: [String], isLaunched: Bool = false) throws(QemuError) {
        guard let program = arguments.first, !program.isEmpty else { throw .unusableCommand("it is empty") }
        self.arguments = arguments
        var backends: [(name: String, pattern: String)] = []
        for (index, argument) in arguments.enumerated().dropFirst() {
            let value = index + 1 < arguments.count ? arguments[index + 1] : nil
            // QEMU takes one dash or two.
            switch argument.hasPrefix("--") ? String(argument.dropFirst()) : argument {
            case "-incoming" where !isLaunched:
                throw .unusableCommand("it has -incoming, which pageferry adds itself; leave it out")
            case "-daemonize":
                throw .unusableCommand("it has -daemonize, which hides QEMU from pageferry; leave it out and use --detach")
            case "-mem-prealloc":
                throw .unusableCommand("it has -mem-prealloc, which would wait for pages before the machine exists; leave it out")
            case "-overcommit" where value.map { Self.isOn(Self.parse($0)["mem-lock"]) } ?? false:
                throw .unusableCommand("it has -overcommit mem-lock=on, which would wait for every page at the start; leave it out")
            case "-object":
                guard let value else { throw .unusableCommand("-object lacks its value") }
                if let backend = try Self.backend(of: value) { backends.append(backend) }
            default:
                continue
            }
        }
        guard !backends.isEmpty else { throw .noMemoryBackend }
        backendNames = backends.map(\.name)
        memoryPatterns = backends.map(\.pattern)
    }

    /// The whole command: the user's, a QMP monitor of ours on descriptor `monitor`, and an incoming migration that waits,
    /// its guest paused until it is resumed.
    ///
    /// - Parameter spareMonitorPath: a QMP socket for a daemon that takes over; nil for none.
    func incoming(monitor: Int32, spareMonitorPath: String? = nil) -> [String] {
        let spare = spareMonitorPath.map { ["-qmp", "unix:\($0),server=on,wait=off"] } ?? []
        return arguments + spare + [
            "-chardev", "socket,id=pageferry-qmp,fd=\(monitor)", "-mon", "chardev=pageferry-qmp,mode=control",
            "-incoming", "defer", "-S",
        ]
    }

    /// The id of a memory backend and what to look for; nil when `object` is something else.
    private static func backend(of object: String) throws(QemuError) -> (name: String, pattern: String)? {
        let options = parse(object)
        guard let type = options["qom-type"], type.hasPrefix("memory-backend-") else { return nil }
        guard let name = options["id"] else { throw .unusableCommand("a \(type) has no id") }
        let pattern: String
        switch type {
        case "memory-backend-file":
            guard isOn(options["share"]) else { throw .notShared(backend: name) }
            guard let path = options["mem-path"] else { throw .unusableCommand("the memory backend '\(name)' has no mem-path") }
            guard !path.contains(":") else { throw .unusableCommand("the mem-path '\(path)' has a colon; use another path") }
            pattern = path
        case "memory-backend-memfd":
            // share is on by default for a memfd.
            guard options["share"].map({ isOn($0) }) ?? true else { throw .notShared(backend: name) }
            pattern = "memfd:memory-backend-memfd"
        default:
            throw .unsupportedBackend(backend: name, type: type)
        }
        if isOn(options["prealloc"]) {
            throw .unusableCommand(
                "the memory backend '\(name)' has prealloc=on, which would wait for pages before the machine exists; leave it out")
        }
        return (name, pattern)
    }

    private static func isOn(_ value: String?) -> Bool {
        value == "on" || value == "yes" || value == "true" || value == "y"
    }

    /// QEMU's key=value syntax, in which ",," stands for a comma, or its JSON syntax.
    static func parse(_ object: String) -> [String: String] {
        if object.hasPrefix("{") { return parseJSON(object) }
        let separated = object.replacing(",,", with: "\u{0}").split(separator: ",")
        var options: [String: String] = [:]
        for (index, option) in separated.enumerated() {
            let text = option.replacing("\u{0}", with: ",")
            if let equals = text.firstIndex(of: "=") {
                options[String(text[..<equals])] = String(text[text.index(after: equals)...])
            } else if index == 0 {
                options["qom-type"] = String(text)
            }
        }
        return options
    }
}
