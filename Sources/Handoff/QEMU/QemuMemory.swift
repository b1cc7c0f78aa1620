import CShims
import Foundation
import Glibc
import PageCore

/// One RAM backend of a running QEMU, with an open descriptor of its file.
public struct QemuMemoryBackend: Sendable {
    public let name: String
    public let lengthBytes: Int
    /// Open for reading; the owner of this closes it.
    public let descriptor: Int32
    /// Where the backend begins in the file.
    public let fileOffset: Int
}

/// Finds the file behind a QEMU's RAM from outside: through the process's mappings, which is right whatever QEMU was
/// told on its command line (a directory, a name that was unlinked, a memfd).
enum QemuMemory {
    /// One line of /proc/PID/maps.
    struct Mapping: Hashable {
        var range: String
        var lengthBytes: Int
        var isShared: Bool
        var fileOffset: Int
        var device: String
        var inode: String
        var path: String
    }

    /// Opens the file of a backend.
    ///
    /// - Parameters:
    ///   - path: its `mem-path`, or nil for a memfd.
    ///   - taken: files of backends found before, so that two memfds of one size are told apart.
    static func open(
        backend: String, lengthBytes: Int, path: String?, process: pid_t, taken: inout Set<String>
    ) throws(QemuError) -> QemuMemoryBackend {
        guard let text = readMaps(process) else {
            throw .cannotOpenMemory(backend: backend, reason: "/proc/\(process)/maps cannot be read")
        }
        let mappings = text.split(separator: "\n").compactMap { parse($0) }
        // One file may have several mappings (an advice splits them): they are counted together.
        var sizes: [String: Int] = [:]
        for mapping in mappings where mapping.isShared { sizes[key(mapping), default: 0] += mapping.lengthBytes }
        for mapping in mappings {
            guard mapping.isShared, !taken.contains(key(mapping)), sizes[key(mapping)] == lengthBytes, mapping.fileOffset == 0,
                isCandidate(mapping, path: path)
            else { continue }
            taken.insert(key(mapping))
            let descriptor = try open(mapping, process, backend)
            return QemuMemoryBackend(name: backend, lengthBytes: lengthBytes, descriptor: descriptor, fileOffset: 0)
        }
        throw .cannotOpenMemory(backend: backend, reason: "process \(process) has no shared mapping of \(lengthBytes) bytes for it")
    }

    /// The whole of /proc/PID/maps. The kernel hands it out a page at a time, so a short read is not its end.
    private static func readMaps(_ process: pid_t) -> String? {
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

    private static func key(_ mapping: Mapping) -> String { "\(mapping.device):\(mapping.inode)" }

    private static func isCandidate(_ mapping: Mapping, path: String?) -> Bool {
        guard let path else { return mapping.path.hasPrefix("/memfd:") }
        var resolved = path
        // SAFETY: realpath allocates its answer, which is freed here.
        if let real = unsafe realpath(path, nil) {
            resolved = unsafe String(cString: real)
            unsafe free(real)
        }
        return mapping.path == resolved || mapping.path.hasPrefix("\(resolved)/") || mapping.path.hasPrefix("\(resolved) (deleted)")
    }

    /// Opens the very file that is mapped: by its mapping, else by a descriptor of the process for the same inode.
    private static func open(_ mapping: Mapping, _ process: pid_t, _ backend: String) throws(QemuError) -> Int32 {
        // SAFETY: the paths are terminated and live for the calls.
        let direct = unsafe Glibc.open("/proc/\(process)/map_files/\(mapping.range)", O_RDONLY | O_CLOEXEC)
        if direct >= 0 { return direct }
        var code = errno
        let folder = "/proc/\(process)/fd"
        for entry in (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] {
            var status = stat()
            guard unsafe stat("\(folder)/\(entry)", &status) == 0, "\(status.st_ino)" == mapping.inode else { continue }
            let descriptor = unsafe Glibc.open("\(folder)/\(entry)", O_RDONLY | O_CLOEXEC)
            if descriptor >= 0 { return descriptor }
            code = errno
        }
        throw .cannotOpenMemory(backend: backend, reason: unsafe String(cString: strerror(code)))
    }

    /// "7f0000000000-7f0020000000 rw-s 00000000 00:1a 123   /dev/shm/ram", see proc_pid_maps(5).
    static func parse(_ line: Substring) -> Mapping? {
        let fields = line.split(separator: " ", maxSplits: 5)
        guard fields.count >= 5 else { return nil }
        let bounds = fields[0].split(separator: "-")
        guard bounds.count == 2, let low = UInt(bounds[0], radix: 16), let high = UInt(bounds[1], radix: 16), low < high,
            let offset = Int(fields[2], radix: 16)
        else { return nil }
        let path = fields.count > 5 ? fields[5].drop { $0 == " " } : ""
        return Mapping(
            range: String(fields[0]), lengthBytes: Int(high - low), isShared: fields[1].hasSuffix("s"), fileOffset: offset,
            device: String(fields[3]), inode: String(fields[4]), path: String(path))
    }
}
