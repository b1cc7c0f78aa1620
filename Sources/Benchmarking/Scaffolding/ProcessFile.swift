import CShims
import Glibc

/// What the kernel tells of processes in /proc and by its clocks.
enum ProcessFile {
    /// The whole text of a file whose size the kernel does not know beforehand; empty when it cannot be read.
    static func read(_ path: String) -> String {
        // SAFETY: the path is terminated, and the buffer outlives each read and is passed with its size.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = unsafe Glibc.read(descriptor, &piece, piece.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return String(decoding: text, as: UTF8.self) }
            text += piece[..<count]
        }
    }

    /// A field of /proc/PID/status in KiB; 0 when there is none.
    static func statusKiB(_ field: String, of process: pid_t) -> Int {
        let line = read("/proc/\(process)/status").split(separator: "\n").first { $0.hasPrefix("\(field):") }
        return line?.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first.flatMap { Int($0) } ?? 0
    }
}

/// Processor time, user and kernel together.
enum ProcessorTime {
    /// Nanoseconds a process has used so far, all its threads; 0 when it has gone.
    static func nanoseconds(of process: pid_t) -> UInt64 {
        var clock = clockid_t()
        var time = timespec()
        // SAFETY: both calls fill local variables.
        guard unsafe clock_getcpuclockid(process, &clock) == 0, unsafe clock_gettime(clock, &time) == 0 else { return 0 }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
