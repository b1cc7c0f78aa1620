/// A memory backend as QEMU knows it.
struct QemuKnownBackend {
    var name: String
    var sizeBytes: Int
    /// Where QEMU has mapped it; nil when the guest does not see it.
    var hostAddress: UInt?
}

extension QMPClient {
    /// The ids of the memory backends.
    func backendNames() throws(QemuError) -> [String] {
        let names = try execute("query-memdev").array?.compactMap { $0["id"]?.string } ?? []
        guard !names.isEmpty else { throw .noMemoryBackend }
        return names
    }

    /// Every memory backend, and where it is mapped.
    func memoryBackends() throws(QemuError) -> [QemuKnownBackend] {
        let map = try guestMap()
        var backends: [QemuKnownBackend] = []
        for name in try backendNames() {
            guard let sizeBytes = try backendProperty(name, "size").integer, sizeBytes > 0 else {
                throw .malformedMessage("a memory backend without a size")
            }
            backends.append(QemuKnownBackend(name: name, sizeBytes: sizeBytes, hostAddress: try hostAddress(of: name, map)))
        }
        return backends
    }

    func backendProperty(_ backend: String, _ name: String) throws(QemuError) -> JSONValue {
        try execute("qom-get", ["path": .string("/objects/\(backend)"), "property": .string(name)])
    }

    func guestMap() throws(QemuError) -> QemuGuestMap { QemuGuestMap(parsing: try humanMonitor("info mtree -f")) }

    /// Where QEMU has mapped a backend, or nil when the guest does not see it. Two backends of one size and kind cannot be
    /// told apart from outside, and to mix them up would mix up the guest's memory.
    func hostAddress(of backend: String, _ map: QemuGuestMap) throws(QemuError) -> UInt? {
        guard let entry = map.entry(of: backend) else { return nil }
        let answer = try humanMonitor("gpa2hva 0x\(String(entry.guestAddress, radix: 16))")
        guard let address = QemuGuestMap.hostAddress(parsing: answer), address >= entry.backendOffset else { return nil }
        return address - entry.backendOffset
    }

    /// The answer of the human monitor; empty when this QEMU has none.
    private func humanMonitor(_ command: String) throws(QemuError) -> String {
        do throws(QemuError) {
            return try execute("human-monitor-command", ["command-line": .string(command)]).string ?? ""
        } catch .refused {
            return ""
        }
    }
}
