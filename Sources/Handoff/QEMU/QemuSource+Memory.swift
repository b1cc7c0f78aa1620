import CShims
import Foundation
import Glibc

extension QemuSource {
    /// Opens every memory backend's file, in the order of their ids.
    func openMemory() throws(QemuError) -> [QemuMemoryBackend] {
        guard let process else { throw .systemCall("reading the peer of the QMP socket", code: errno) }
        let names = try client.backendNames()
        let version = try version()
        let map = try client.guestMap()
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
        let type = try client.backendProperty(name, "type").string ?? "unknown"
        let isShared = try client.backendProperty(name, "share").boolean == true
        // With -m alone the machine makes a backend of its own, named "pc.ram", "mach-virt.ram" and the like.
        if type == "memory-backend-ram", !isShared, name.hasSuffix(".ram") { throw .noMemoryBackend }
        guard type == "memory-backend-file" || type == "memory-backend-memfd" else {
            throw .unsupportedBackend(backend: name, type: type)
        }
        guard isShared else { throw .notShared(backend: name) }
        if type == "memory-backend-memfd", version >= .ignoresNamedFilesOnly {
            throw .memoryWouldBeSent(backend: name, version: version)
        }
        guard let sizeBytes = try client.backendProperty(name, "size").integer, sizeBytes > 0 else {
            throw .malformedMessage("a memory backend without a size")
        }
        var path: String?
        if type == "memory-backend-file" {
            guard let given = try client.backendProperty(name, "mem-path").string else {
                throw .malformedMessage("a memory-backend-file without a mem-path")
            }
            path = absolute(given, process)
        }
        return QemuBackendDescription(
            name: name, sizeBytes: sizeBytes, path: path, hostAddress: try client.hostAddress(of: name, map))
    }

    /// A relative mem-path is relative to QEMU's directory, not to ours.
    private func absolute(_ path: String, _ process: pid_t) -> String {
        guard !path.hasPrefix("/"),
            let directory = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(process)/cwd")
        else { return path }
        return "\(directory)/\(path)"
    }
}
