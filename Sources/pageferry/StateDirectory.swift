import Foundation
import Glibc

/// What a daemon leaves for the one that takes over when it dies: a directory that only its user can enter, served by one daemon
/// at a time. It holds secrets.
final class StateDirectory: Sendable {
    let path: String
    /// Locked as long as this daemon lives: the kernel lets go of it however the daemon ends.
    private let lock: Int32

    init(_ path: String) throws(CommandFailure) {
        // SAFETY: here and below: the paths are terminated and live for the calls, which fill local variables.
        if unsafe mkdir(path, 0o700) != 0, errno != EEXIST {
            throw CommandFailure("cannot make the state directory '\(path)': \(Self.text(errno))", .cannotCreate)
        }
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
            throw CommandFailure("'\(path)' is no directory; give --state a directory of this daemon's own", .configuration)
        }
        guard status.st_uid == getuid(), status.st_mode & 0o077 == 0 else {
            throw CommandFailure(
                "the state directory '\(path)' holds secrets, and others may enter it; chmod 700 it, as its owner", .noPermission)
        }
        let descriptor = unsafe open("\(path)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw CommandFailure("cannot open '\(path)/lock': \(Self.text(errno))", .cannotCreate) }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            close(descriptor)
            throw CommandFailure("another daemon that runs uses the state directory '\(path)'; give each its own", .temporaryFailure)
        }
        self.path = path
        lock = descriptor
    }

    deinit { close(lock) }

    private static func text(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }

    func file(_ name: String) -> String { "\(path)/\(name)" }

    /// Replaces a file whole: whoever reads it finds the old or the new one.
    func write(_ value: some Encodable, to name: String) throws(CommandFailure) {
        let temporary = file(".\(name)")
        do {
            let data = try JSONEncoder().encode(value)
            unsafe unlink(temporary)
            guard FileManager.default.createFile(atPath: temporary, contents: data, attributes: [.posixPermissions: 0o600]) else {
                throw CocoaError(.fileWriteUnknown)
            }
        } catch {
            throw CommandFailure("cannot write '\(file(name))': \(error.localizedDescription)", .cannotCreate)
        }
        guard unsafe rename(temporary, file(name)) == 0 else {
            throw CommandFailure("cannot write '\(file(name))': \(Self.text(errno))", .cannotCreate)
        }
    }

    /// - Returns: nil when there is no such file.
    func read<Value: Decodable>(_ type: Value.Type, from name: String) throws(CommandFailure) -> Value? {
        guard FileManager.default.fileExists(atPath: file(name)) else { return nil }
        do {
            return try JSONDecoder().decode(type, from: Data(contentsOf: URL(filePath: file(name))))
        } catch {
            throw CommandFailure(
                "'\(file(name))' cannot be read as a state of this version; remove it if no guest depends on it", .dataError)
        }
    }

    func remove(_ name: String) { unsafe unlink(file(name)) }

    /// The files whose names begin so, the newest first.
    func names(prefix: String) -> [String] {
        let names = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).filter { $0.hasPrefix(prefix) }
        return names.map { (name: $0, age: age(of: $0)) }.sorted { ($0.age, $0.name) < ($1.age, $1.name) }.map(\.name)
    }

    /// Seconds since it was written; only to be compared.
    private func age(of name: String) -> TimeInterval {
        let date = try? FileManager.default.attributesOfItem(atPath: file(name))[.modificationDate] as? Date
        return -(date ?? .distantPast).timeIntervalSinceReferenceDate
    }
}
