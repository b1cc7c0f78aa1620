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

/// How much of the machine's processors went to others: a run beside a busy neighbour says little, and should show it.
struct MachineUse {
    /// Clock ticks of all processors since the machine started: all, and those that were not idle or were taken by the host.
    private let allTicks: Double
    private let busyTicks: Double
    /// Ticks of this process and of children that have ended.
    private let ownTicks: Double

    init() {
        let fields =
            ProcessFile.read("/proc/stat").split(separator: "\n").first?.split(separator: " ").dropFirst().compactMap { Double($0) } ?? []
        // user nice system idle iowait irq softirq steal; guest time is in user time already (proc(5)).
        allTicks = fields.prefix(8).reduce(0, +)
        busyTicks = allTicks - (fields.count > 4 ? fields[3] + fields[4] : 0)
        ownTicks = [RUSAGE_SELF.rawValue, RUSAGE_CHILDREN.rawValue].reduce(0) { sum, who in
            var usage = rusage()
            // SAFETY: the kernel fills the local structure.
            guard unsafe getrusage(who, &usage) == 0 else { return sum }
            let seconds = Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
            return sum + (seconds + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6) * Double(sysconf(Int32(_SC_CLK_TCK)))
        }
    }

    /// Per cent of all processors that others used since `start`.
    func percentOfOthers(since start: MachineUse) -> Double {
        let all = allTicks - start.allTicks
        guard all > 0 else { return 0 }
        return max(0, (busyTicks - start.busyTicks) - (ownTicks - start.ownTicks)) / all * 100
    }
}
