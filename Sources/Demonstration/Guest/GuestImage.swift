import Foundation

/// The files a demonstration guest boots from, as perf/guest/make-guest leaves them.
public struct GuestImage: Sendable {
    public let kernel: String
    public let initramfs: String
    public let disk: String

    public init(directory: String) throws(DemonstrationError) {
        kernel = "\(directory)/kernel"
        initramfs = "\(directory)/initramfs"
        disk = "\(directory)/disk"
        for path in [kernel, initramfs, disk] where !FileManager.default.fileExists(atPath: path) {
            throw DemonstrationError(
                "there is no \(path); run `make guest`, or where PageFerry is installed share/pageferry/guest/make-guest DIRECTORY, and give --guest DIRECTORY/out"
            )
        }
    }
}

/// A directory for sockets and small files, gone with everything in it at the end of this value's life.
final class PrivateDirectory: Sendable {
    let path: String

    init() throws(DemonstrationError) {
        let url = URL(filePath: "/tmp/pageferry-demo.\(ProcessInfo.processInfo.processIdentifier).\(UInt32.random(in: 0 ... .max))")
        do {
            try FileManager.default.createDirectory(
                at: url, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
        } catch {
            throw DemonstrationError("cannot make a directory in /tmp: \(error.localizedDescription)")
        }
        path = url.path
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// A guest's RAM as a file others may map, removed at the end of this value's life.
final class MemoryBackingFile: Sendable {
    let path: String

    init(_ name: String) {
        path = "/dev/shm/pageferry-demo.\(ProcessInfo.processInfo.processIdentifier).\(UInt32.random(in: 0 ... .max)).\(name)"
    }

    deinit { remove() }

    func remove() { try? FileManager.default.removeItem(atPath: path) }
}
