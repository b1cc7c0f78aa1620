import CShims
import Glibc

extension UserfaultDescriptor {
    /// Opens by the system call, or, where that is not permitted, through /dev/userfaultfd.
    static func open() throws(UserfaultError) -> Int32 {
        let flags = O_CLOEXEC | O_NONBLOCK
        let direct = pageferry_userfault_open(flags)
        if direct >= 0 { return direct }
        guard -direct == EPERM || -direct == ENOSYS else { throw .systemCall(call: .open, code: -direct) }
        // SAFETY: the path is terminated and lives for the call.
        let device = unsafe Glibc.open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)
        guard device >= 0 else { throw -direct == ENOSYS ? .notSupported : .notPermitted }
        defer { close(device) }
        let through = pageferry_userfault_open_through(device, flags)
        guard through >= 0 else { throw .systemCall(call: .open, code: -through) }
        return through
    }

    /// - Returns: all features of the kernel.
    static func handshake(
        _ descriptor: Int32, _ features: UserfaultFeatures
    ) throws(UserfaultError) -> UserfaultFeatures {
        var mask = features.rawValue
        // SAFETY: the shim reads and writes one integer, this variable.
        let answer = unsafe pageferry_userfault_handshake(descriptor, &mask)
        guard answer == 0 else { throw .systemCall(call: .handshake, code: -answer) }
        return UserfaultFeatures(rawValue: mask)
    }

    /// Checks that `descriptor` is a userfaultfd after its handshake.
    ///
    /// No ioctl tells: on another kind of file the same number may do anything. The link in /proc does, and a path
    /// cannot pass for it, since paths begin with a slash.
    /// - Returns: the features that are on, from /proc/self/fdinfo ("API: aa:<features>:<ioctls>").
    static func inspect(_ descriptor: Int32) throws(UserfaultError) -> UserfaultFeatures {
        let link = try linkTarget(descriptor)
        guard link == "anon_inode:[userfaultfd]" else { throw .notUserfault(descriptor: descriptor, link: link) }
        let information = try fileText("/proc/self/fdinfo/\(descriptor)")
        let fields = information.split(separator: "\n").first { $0.hasPrefix("API:") }?.split(separator: ":") ?? []
        guard fields.count == 4, let mask = UInt64(fields[2], radix: 16) else {
            throw .systemCall(call: .inspect, code: EPROTO)
        }
        // Bit 31 is the kernel's own mark for "handshake made".
        guard mask & (1 << 31) != 0 else { throw .notInitialized(descriptor: descriptor) }
        return UserfaultFeatures(rawValue: mask & ~(1 << 31))
    }

    private static func linkTarget(_ descriptor: Int32) throws(UserfaultError) -> String {
        var code: Int32 = 0
        // SAFETY: the path is terminated, and readlink writes at most `buffer.count` bytes into the buffer it is given.
        let link = unsafe String(unsafeUninitializedCapacity: 256) { buffer in
            let count = unsafe readlink(
                "/proc/self/fd/\(descriptor)", UnsafeMutableRawPointer(buffer.baseAddress!).assumingMemoryBound(to: CChar.self),
                buffer.count)
            if count < 0 { code = errno }
            return max(count, 0)
        }
        guard code == 0 else { throw .systemCall(call: .inspect, code: code) }
        return link
    }

    private static func fileText(_ path: String) throws(UserfaultError) -> String {
        // SAFETY: the path is terminated and lives for the call.
        let file = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw .systemCall(call: .inspect, code: errno) }
        defer { close(file) }
        var code: Int32 = 0
        // SAFETY: read writes at most `buffer.count` bytes into the buffer it is given.
        let text = unsafe String(unsafeUninitializedCapacity: 4096) { buffer in
            let count = unsafe read(file, buffer.baseAddress, buffer.count)
            if count < 0 { code = errno }
            return max(count, 0)
        }
        guard code == 0 else { throw .systemCall(call: .inspect, code: code) }
        return text
    }
}
