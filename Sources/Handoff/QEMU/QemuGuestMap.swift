/// Where the guest sees its memory backends, from the monitor's `info mtree -f`: the way to learn a backend's address in
/// QEMU, which QMP does not tell.
///
/// A line of it: "  0000000100000000-000000013fffffff (prio 0, ram): node0 @00000000c0000000 KVM".
struct QemuGuestMap {
    struct Entry: Hashable {
        var guestAddress: UInt
        /// Of this piece in the backend.
        var backendOffset: UInt
    }

    private var entries: [String: Entry] = [:]

    init(parsing text: String) {
        for line in text.split(whereSeparator: \.isNewline) {
            guard let (name, entry) = Self.parse(line), entries[name] == nil else { continue }
            entries[name] = entry
        }
    }

    /// The first piece of a backend, by its id or its path below /objects.
    func entry(of backend: String) -> Entry? { entries[backend] ?? entries["/objects/\(backend)"] }

    private static func parse(_ line: Substring) -> (String, Entry)? {
        let fields = line.split(separator: " ")
        guard let kind = fields.firstIndex(of: "ram):"), kind + 1 < fields.count,
            let start = fields[0].split(separator: "-").first, let guestAddress = UInt(start, radix: 16)
        else { return nil }
        var backendOffset: UInt = 0
        if kind + 2 < fields.count, fields[kind + 2].hasPrefix("@") {
            guard let offset = UInt(fields[kind + 2].dropFirst(), radix: 16) else { return nil }
            backendOffset = offset
        }
        return (String(fields[kind + 1]), Entry(guestAddress: guestAddress, backendOffset: backendOffset))
    }

    /// The address in the monitor's answer to `gpa2hva`: "Host virtual address for 0x0 (node0) is 0x7f32ebe00000".
    static func hostAddress(parsing text: String) -> UInt? {
        let words = text.split(whereSeparator: { $0.isWhitespace })
        // An error names the guest's address last.
        guard text.hasPrefix("Host virtual address for"), let last = words.last, last.hasPrefix("0x") else { return nil }
        return UInt(last.dropFirst(2), radix: 16)
    }
}
