import CShims
import Foundation
import Glibc

extension QemuSource {
    /// Opens every memory backend's file, in the order of their ids.
    func openMemory() throws(QemuError) -> [QemuMemoryBackend] {
        guard let process else { throw .systemCall("reading the peer of the QMP socket", code: errno) }
        let names = try client.execute("query-memdev").array?.compactMap { $0["id"]?.string } ?? []
        guard !names.isEmpty else { throw .noMemoryBackend }
        let version = try version()
        let map = QemuGuestMap(parsing: try monitor("info mtree -f"))
        var descriptions: [QemuBackendDescription] = []
        for name in names { descriptions.append(try describe(name, process, version, map)) }
        // Those whose address is known leave fewer candidates for the others.
        descriptions.sort { ($0.hostAddress == nil ? 1 : 0, $0.name) < ($1.hostAddress == nil ? 1 : 0, $1.name) }
        var memory = try QemuMemory(process: process)
        var backends: [QemuMemoryBackend] = []
        do throws(QemuError) {
            for description in descriptions { backends.append(try memory.open(description)) }
        } catch {
            for backend in backends { close(backend.descriptor) }
            throw error
        }
        return backends.sorted { $0.name < $1.name }
    }

    private func describe(
        _ name: String, _ process: pid_t, _ version: QemuVersion, _ map: QemuGuestMap
    ) throws(QemuError) -> QemuBackendDescription {
        let type = try property(name, "type").string ?? "unknown"
        let isShared = try property(name, "share").boolean == true
        // With -m alone the machine makes a backend of its own, named "pc.ram", "mach-virt.ram" and the like.
        if type == "memory-backend-ram", !isShared, name.hasSuffix(".ram") { throw .noMemoryBackend }
        guard type == "memory-backend-file" || type == "memory-backend-memfd" else {
            throw .unsupportedBackend(backend: name, type: type)
        }
        guard isShared else { throw .notShared(backend: name) }
        if type == "memory-backend-memfd", version >= .ignoresNamedFilesOnly {
            throw .memoryWouldBeSent(backend: name, version: version)
        }
        guard let sizeBytes = try property(name, "size").integer, sizeBytes > 0 else {
            throw .malformedMessage("a memory backend without a size")
        }
        var path: String?
        if type == "memory-backend-file" {
            guard let given = try property(name, "mem-path").string else {
                throw .malformedMessage("a memory-backend-file without a mem-path")
            }
            path = absolute(given, process)
        }
        return QemuBackendDescription(
            name: name, sizeBytes: sizeBytes, path: path, hostAddress: try hostAddress(of: name, map))
    }

    /// A relative mem-path is relative to QEMU's directory, not to ours.
    private func absolute(_ path: String, _ process: pid_t) -> String {
        guard !path.hasPrefix("/"),
            let directory = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/cwd")
        else { return path }
        return "\(directory)/\(path)"
    }

    /// Where QEMU has mapped a backend, or nil when the guest does not see it. Two backends of one size and kind cannot be
    /// told apart from outside, and to mix them up would mix up the guest's memory.
    private func hostAddress(of backend: String, _ map: QemuGuestMap) throws(QemuError) -> UInt? {
        guard let entry = map.entry(of: backend) else { return nil }
        let answer = try monitor("gpa2hva 0x\(String(entry.guestAddress, radix: 16))")
        guard let address = QemuGuestMap.hostAddress(parsing: answer), address >= entry.backendOffset else { return nil }
        return address - entry.backendOffset
    }

    /// The answer of the human monitor; empty when this QEMU has none.
    private func monitor(_ command: String) throws(QemuError) -> String {
        do throws(QemuError) {
            return try client.execute("human-monitor-command", ["command-line": .string(command)]).string ?? ""
        } catch .refused {
            return ""
        }
    }

    private func property(_ backend: String, _ name: String) throws(QemuError) -> JSONValue {
        try client.execute("qom-get", ["path": .string("/objects/\(backend)"), "property": .string(name)])
    }
}
