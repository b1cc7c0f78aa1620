import CShims
import Foundation
import Glibc

/// One RAM backend of a running QEMU, with an open descriptor of its file.
public struct QemuMemoryBackend: Sendable {
    /// The object's id, the same on both hosts: backends are listed, and paired, in its order.
    public let name: String
    public let lengthBytes: Int
    /// Open for reading; the owner of this closes it.
    public let descriptor: Int32
    /// Where the backend begins in the file.
    public let fileOffset: Int
}

/// What QEMU says of a backend.
struct QemuBackendDescription {
    var name: String
    var sizeBytes: Int
    /// Its `mem-path`, absolute; nil for a memfd.
    var path: String?
    /// Where QEMU has mapped it; nil when the guest does not see it.
    var hostAddress: UInt?
}

/// Finds the file behind a QEMU's RAM from outside: through the process's mappings, which is right whatever QEMU was
/// told on its command line (a directory, a name that was unlinked or now means another file, a memfd).
struct QemuMemory {
    /// A run of one file in the process's address space. An advice splits it into several lines of /proc/PID/maps.
    struct Run: Hashable {
        var start: UInt
        var lengthBytes: Int
        var fileOffset: Int
        var device: String
        var inode: String
        var path: String
        /// The name of its first line below map_files.
        var firstRange: String

        var end: UInt { start + UInt(lengthBytes) }
    }

    private let process: pid_t
    private var runs: [Run]

    init(process: pid_t) throws(QemuError) {
        guard let text = Self.readMaps(process) else {
            throw .cannotOpenMemory(backend: "all", reason: "/proc/\(process)/maps cannot be read")
        }
        self.process = process
        runs = Self.runs(parsing: text)
    }

    /// Opens the file of a backend; its mapping is no candidate for another one then.
    mutating func open(_ backend: QemuBackendDescription) throws(QemuError) -> QemuMemoryBackend {
        let run = try find(backend)
        runs.removeAll { $0 == run }
        return QemuMemoryBackend(
            name: backend.name, lengthBytes: run.lengthBytes, descriptor: try open(run, backend.name), fileOffset: run.fileOffset)
    }

    private func find(_ backend: QemuBackendDescription) throws(QemuError) -> Run {
        // QEMU rounds a mapping up to whole pages of its file.
        let candidates = runs.filter { run in
            run.lengthBytes >= backend.sizeBytes && run.lengthBytes - backend.sizeBytes < 2 << 20
                && isCandidate(run, path: backend.path)
        }
        guard let first = candidates.first else {
            throw .cannotOpenMemory(
                backend: backend.name, reason: "process \(process) has no shared mapping of \(backend.sizeBytes) bytes for it")
        }
        if let address = backend.hostAddress {
            guard let run = candidates.first(where: { $0.start == address }) else {
                throw .cannotOpenMemory(
                    backend: backend.name, reason: "its mapping is not where QEMU says it is (0x\(String(address, radix: 16)))")
            }
            return run
        }
        guard candidates.count > 1 else { return first }
        let named = candidates.filter { $0.path.contains("/qemu_back_mem.\(backend.name).") }
        guard named.count == 1, let run = named.first else { throw .ambiguousMemory(backend: backend.name) }
        return run
    }

    private func isCandidate(_ run: Run, path: String?) -> Bool {
        guard let path else { return run.path.hasPrefix("/memfd:") }
        var resolved = path
        // SAFETY: realpath allocates its answer, which is freed here.
        if let real = unsafe realpath(path, nil) {
            resolved = unsafe String(cString: real)
            unsafe free(real)
        }
        return run.path == resolved || run.path.hasPrefix("\(resolved)/") || run.path == "\(resolved) (deleted)"
    }

    /// Opens the very file that is mapped: by its mapping, which takes privileges, else by QEMU's own descriptor of it.
    private func open(_ run: Run, _ backend: String) throws(QemuError) -> Int32 {
        // SAFETY: the path is terminated and lives for the call.
        let direct = unsafe Glibc.open("/proc/\(process)/map_files/\(run.firstRange)", O_RDONLY | O_CLOEXEC)
        if direct >= 0 { return direct }
        return try openByDescriptor(run, backend)
    }

    func openByDescriptor(_ run: Run, _ backend: String) throws(QemuError) -> Int32 {
        var code = ENOENT
        let folder = "/proc/\(process)/fd"
        for entry in (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] {
            // Inode numbers repeat across file systems, paths across time: both together do not.
            guard (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\(entry)")) == run.path else { continue }
            // SAFETY: the path is terminated and lives for the call; the structure is local.
            let descriptor = unsafe Glibc.open("\(folder)/\(entry)", O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else {
                code = errno
                continue
            }
            var status = stat()
            if unsafe fstat(descriptor, &status) == 0, "\(status.st_ino)" == run.inode { return descriptor }
            close(descriptor)
        }
        throw .cannotOpenMemory(backend: backend, reason: unsafe String(cString: strerror(code)))
    }

    // MARK: /proc/PID/maps

    /// The whole of /proc/PID/maps. The kernel hands it out a page at a time, so a short read is not its end.
    static func readMaps(_ process: pid_t) -> String? {
        // SAFETY: the path is terminated; the buffer outlives every read, which stays within its count.
        let file = unsafe Glibc.open("/proc/\(process)/maps", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var text: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe read(file, &piece, piece.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return count == 0 ? String(decoding: text, as: UTF8.self) : nil }
            text.append(contentsOf: piece[..<count])
        }
    }

    /// The runs of shared file mappings in the text of /proc/PID/maps, by address.
    static func runs(parsing text: String) -> [Run] {
        var runs: [Run] = []
        for line in text.split(separator: "\n") {
            guard let run = parse(line) else { continue }
            if var last = runs.last, last.end == run.start, last.device == run.device, last.inode == run.inode,
                last.fileOffset + last.lengthBytes == run.fileOffset
            {
                last.lengthBytes += run.lengthBytes
                runs[runs.count - 1] = last
            } else {
                runs.append(run)
            }
        }
        return runs
    }

    /// "7f0000000000-7f0020000000 rw-s 00000000 00:1a 123   /dev/shm/ram", see proc_pid_maps(5); nil when it is not shared.
    private static func parse(_ line: Substring) -> Run? {
        let fields = line.split(separator: " ", maxSplits: 5)
        guard fields.count == 6, fields[1].hasSuffix("s") else { return nil }
        let bounds = fields[0].split(separator: "-")
        guard bounds.count == 2, let low = UInt(bounds[0], radix: 16), let high = UInt(bounds[1], radix: 16), low < high,
            let lengthBytes = Int(exactly: high - low), let offset = Int(fields[2], radix: 16)
        else { return nil }
        return Run(
            start: low, lengthBytes: lengthBytes, fileOffset: offset, device: String(fields[3]), inode: String(fields[4]),
            path: String(fields[5].drop { $0 == " " }), firstRange: String(fields[0]))
    }
}
