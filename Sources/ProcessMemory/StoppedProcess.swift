import CShims
import Glibc
import PageCore

/// A process that was found stopped, with all its threads, and has not run since, or is known to have.
///
/// The kernel counts how often each thread was put on a processor (schedstat, proc(5)). The counts were taken before the threads were
/// found stopped: while they stay, the process has not run, and what was read of its memory before a look at them is what it held.
/// Nobody keeps it stopped but who stopped it.
final class StoppedProcess: Sendable {
    /// How often, and for how long, a thread has been on a processor.
    struct Count: Sendable, Hashable, Codable {
        var nanoseconds: UInt64 = 0
        var runs: UInt64 = 0
    }

    private struct Witness {
        let descriptor: Int32
        let count: Count
    }

    let process: Int32
    /// A thread that has the process's memory: the first one may have ended before the others.
    let thread: Int32
    private let witnesses: ContiguousArray<Witness>
    private let threads: [Int32]
    /// Readable once the process has ended (pidfd_open(2)).
    private let end: Int32
    /// Who is killed is put on a processor once more, to end there: so long it may take to tell the one from the other.
    private static let mostEndMilliseconds: Int32 = 200

    /// The counts by thread: what two daemons compare that serve the process one after the other.
    var counts: [Int32: Count] { Dictionary(uniqueKeysWithValues: zip(threads, witnesses.map(\.count))) }

    init(_ process: Int32) throws(ProcessMemoryError) {
        self.process = process
        let end = pageferry_pidfd_open(process)
        guard end >= 0 else { throw .noProcess(process) }
        let threads = Self.threads(of: process)
        var witnesses: ContiguousArray<Witness> = []
        do throws(ProcessMemoryError) {
            for thread in threads {
                let descriptor = try ProcessFile(process, "task/\(thread)/schedstat").release()
                witnesses.append(Witness(descriptor: descriptor, count: Count()))
                guard let count = Self.count(descriptor), count.runs > 0 else { throw .runsNotCounted(process) }
                witnesses[witnesses.count - 1] = Witness(descriptor: descriptor, count: count)
            }
            thread = try Self.stoppedThread(of: process, threads)
            // A thread can only come from one that ran.
            guard Self.threads(of: process) == threads else { throw .ran(process) }
        } catch {
            for witness in witnesses { close(witness.descriptor) }
            close(end)
            throw error
        }
        self.end = end
        self.witnesses = witnesses
        self.threads = threads
    }

    deinit {
        close(end)
        for witness in witnesses { close(witness.descriptor) }
    }

    /// Throws when any thread has run since, or the process has ended. One system call a thread; allocates nothing.
    func verify() throws(ProcessMemoryError) {
        for index in witnesses.indices {
            guard let count = Self.count(witnesses[index].descriptor) else { throw .ended(process) }
            guard count == witnesses[index].count else { throw isEnding() ? .ended(process) : .ran(process) }
        }
    }

    /// Whether a process that ran did so because it ends.
    private func isEnding() -> Bool {
        var entry = pollfd(fd: end, events: Int16(POLLIN), revents: 0)
        // SAFETY: one local entry, for the duration of the call.
        return unsafe poll(&entry, 1, Self.mostEndMilliseconds) > 0
    }

    /// The first and the last of three numbers; nil when the thread is gone.
    private static func count(_ descriptor: Int32) -> Count? {
        var text = InlineArray<96, UInt8>(repeating: 0)
        let room = text.count
        // SAFETY: the local array has as many bytes.
        let length = unsafe withUnsafeMutableBytes(of: &text) { unsafe readAt(descriptor, $0.baseAddress!, room, offset: 0) }
        guard length > 0 else { return nil }
        var spaces = 0
        var count = Count()
        for index in 0..<length {
            let byte = text[index]
            if byte == UInt8(ascii: " ") { spaces += 1 }
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { continue }
            let digit = UInt64(byte - UInt8(ascii: "0"))
            if spaces == 0 { count.nanoseconds = count.nanoseconds &* 10 &+ digit }
            if spaces == 2 { count.runs = count.runs &* 10 &+ digit }
        }
        return spaces == 2 ? count : nil
    }

    // MARK: At the start

    private static func threads(of process: Int32) -> [Int32] {
        // SAFETY: the path is terminated; the directory is open until it is closed here, and each entry is read before the next.
        guard let directory = unsafe opendir("/proc/\(process)/task") else { return [] }
        defer { unsafe closedir(directory) }
        var threads: [Int32] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) {
                unsafe String(decoding: $0.prefix(while: { $0 != 0 }), as: UTF8.self)
            }
            if let thread = Int32(name) { threads.append(thread) }
        }
        return threads.sorted()
    }

    /// Finds all threads stopped: by a signal, by a tracer, or with their cgroup.
    ///
    /// - Returns: one of those that have not ended.
    private static func stoppedThread(of process: Int32, _ threads: [Int32]) throws(ProcessMemoryError) -> Int32 {
        var found: Int32?
        var isFrozen: Bool?
        for thread in threads {
            let state = try state(of: process, thread)
            if "ZX".contains(state) { continue }
            if !"Tt".contains(state) {
                isFrozen = isFrozen ?? FrozenGroup.holds(process)
                guard isFrozen == true else { throw .notStopped(process, thread: thread, state: state) }
            }
            found = found ?? thread
        }
        guard let found else { throw .ended(process) }
        return found
    }

    /// The letter behind the name, which may have anything in it, parentheses too.
    private static func state(of process: Int32, _ thread: Int32) throws(ProcessMemoryError) -> Character {
        let text = try ProcessFile(process, "task/\(thread)/stat").text(of: process)
        guard let close = text.lastIndex(of: ")"), let state = text[text.index(after: close)...].first(where: { $0 != " " }) else {
            throw .ended(process)
        }
        return state
    }
}

/// Whether the cgroup a process is in stands still (cgroups(7)): the kernel says so once every thread of it does.
enum FrozenGroup {
    static func holds(_ process: Int32) -> Bool {
        guard let groups = try? ProcessFile(process, "cgroup").text(of: process) else { return false }
        for line in groups.split(separator: "\n") {
            let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard fields.count == 3 else { continue }
            // "0::PATH" in version 2, "N:freezer:PATH" in version 1.
            if fields[0] == "0", fields[1].isEmpty {
                for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
                where text("\(root)\(fields[2])/cgroup.events").contains("frozen 1") { return true }
            } else if fields[1].split(separator: ",").contains("freezer") {
                if text("/sys/fs/cgroup/freezer\(fields[2])/freezer.state").hasPrefix("FROZEN") { return true }
            }
        }
        return false
    }

    private static func text(_ path: String) -> String {
        // SAFETY: the path is terminated; the bytes are read into a local array of that length.
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "" }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe read(descriptor, &bytes, bytes.count)
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
}
