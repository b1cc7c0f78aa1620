import Glibc

/// A file of a process in /proc, open: it stays that process's, whoever gets its number later.
struct ProcessFile: ~Copyable, Sendable {
    let descriptor: Int32

    /// - Parameter name: below /proc/PID.
    init(_ process: Int32, _ name: String) throws(ProcessMemoryError) {
        let path = "/proc/\(process)/\(name)"
        // SAFETY: the path is terminated and lives for the call.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.error(errno, process, opening: path) }
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    private static func error(_ code: Int32, _ process: Int32, opening path: String) -> ProcessMemoryError {
        switch code {
        case ENOENT, ESRCH: .ended(process)
        case EACCES, EPERM: .notPermitted(process, ptraceScope: ptraceScope)
        default: .systemCall(name: "open(2) on \(path)", code: code)
        }
    }

    /// Yama's rule about who may look into whom; nil where there is none.
    private static var ptraceScope: Int? {
        // SAFETY: the path is a terminated literal; one byte is read into a local variable.
        let descriptor = unsafe open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var digit: UInt8 = 0
        guard unsafe Glibc.read(descriptor, &digit, 1) == 1, (0x30...0x39).contains(digit) else { return nil }
        return Int(digit - 0x30)
    }

    /// Gives the descriptor up to the caller, who closes it.
    consuming func release() -> Int32 {
        let descriptor = descriptor
        discard self
        return descriptor
    }

    /// All of a text file, which the kernel writes as it is read.
    borrowing func text(of process: Int32) throws(ProcessMemoryError) -> String {
        var text: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            // SAFETY: the array has as many bytes.
            let count = unsafe readAt(descriptor, &piece, piece.count, offset: UInt64(text.count))
            guard count >= 0 else {
                throw count == -Int(ESRCH) ? .ended(process) : .systemCall(name: "read(2) below /proc/\(process)", code: Int32(-count))
            }
            if count == 0 { return String(decoding: text, as: UTF8.self) }
            text += piece[..<count]
        }
    }
}

/// Reads some bytes of an open file from `offset` on to `start`. Allocates nothing.
///
/// SAFETY: the caller vouches for `count` writable bytes at `start`, for the duration of the call.
///
/// - Returns: how many; 0 at the end, negative -errno.
@unsafe func readAt(_ descriptor: Int32, _ start: UnsafeMutableRawPointer, _ count: Int, offset: UInt64) -> Int {
    while true {
        let got = unsafe pread(descriptor, start, count, off_t(Int64(bitPattern: offset)))
        if got >= 0 { return got }
        if errno != EINTR { return -Int(errno) }
    }
}
