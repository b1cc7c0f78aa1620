/// A QEMU command line as a user wrote it, and what must be known of it to start it as a destination.
public struct QemuCommandLine: Sendable, Hashable {
    /// The program and its arguments.
    public let arguments: [String]
    /// What the preload library is to look for, one entry a backend: a path, or "memfd:NAME".
    public let memoryPatterns: [String]

    public init(_ arguments: [String]) throws(QemuError) {
        guard let program = arguments.first, !program.isEmpty else { throw .unusableCommand("it is empty") }
        if arguments.contains(where: { $0 == "-incoming" || $0 == "--incoming" }) {
            throw .unusableCommand("it has -incoming, which pageferry adds itself; leave it out")
        }
        self.arguments = arguments
        var patterns: [String] = []
        for (index, argument) in arguments.enumerated() where argument == "-object" || argument == "--object" {
            guard index + 1 < arguments.count else { throw .unusableCommand("-object lacks its value") }
            if let pattern = try Self.pattern(of: arguments[index + 1]) { patterns.append(pattern) }
        }
        guard !patterns.isEmpty else { throw .noMemoryBackend }
        memoryPatterns = patterns
    }

    /// The whole command: the user's, a QMP monitor of ours on descriptor `monitor`, and an incoming migration that waits,
    /// its guest paused until it is resumed.
    func incoming(monitor: Int32) -> [String] {
        arguments + [
            "-chardev", "socket,id=pageferry-qmp,fd=\(monitor)", "-mon", "chardev=pageferry-qmp,mode=control",
            "-incoming", "defer", "-S",
        ]
    }

    /// What to look for when `object` is a memory backend; nil when it is something else.
    private static func pattern(of object: String) throws(QemuError) -> String? {
        let options = parse(object)
        guard let type = options["qom-type"] else { return nil }
        let name = options["id"] ?? type
        switch type {
        case "memory-backend-file":
            guard isOn(options["share"]) else { throw .notShared(backend: name) }
            guard let path = options["mem-path"] else { throw .unusableCommand("the memory backend '\(name)' has no mem-path") }
            guard !path.contains(":") else { throw .unusableCommand("the mem-path '\(path)' has a colon; use another path") }
            if isOn(options["prealloc"]) {
                throw .unusableCommand("the memory backend '\(name)' has prealloc=on, which would wait for pages before the machine exists; leave it out")
            }
            return path
        case "memory-backend-memfd":
            // share is on by default for a memfd.
            guard options["share"].map({ isOn($0) }) ?? true else { throw .notShared(backend: name) }
            return "memfd:memory-backend-memfd"
        case "memory-backend-ram":
            throw .unsupportedBackend(backend: name, type: type)
        default:
            return nil
        }
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
