import Foundation
import Glibc
import PageCore
import PageFerry
import Synchronization

/// The processor time that moving a guest took, in seconds: a vCPU's own time, in user or kernel mode, counts for nobody.
public struct MigrationProcessorTime: Sendable, Codable {
    /// Both daemons, from their start to their end; 0 where QEMU moves the guest by itself.
    public var daemonsSeconds: Double
    /// Of that, from just before the switch to the last page: what is left is starting, and making the destination's memory ready.
    public var daemonsFromSwitchSeconds: Double
    /// Both QEMUs' threads other than vCPUs, ended ones too, from just before the switch to the last page.
    public var machinesSeconds: Double

    /// Everything.
    public var seconds: Double { daemonsSeconds + machinesSeconds }
    public var fromSwitchSeconds: Double { daemonsFromSwitchSeconds + machinesSeconds }

    /// Seconds for each GiB of page content on the wire.
    public func secondsAGiB(contentBytes: Int) -> Double? {
        contentBytes > 0 ? seconds / (Double(contentBytes) / Double(1 << 30)) : nil
    }
}

/// Reads every few milliseconds how much processor time a QEMU has used besides its vCPUs', so that a migration's part can be told
/// afterwards, when its times are known.
///
/// A process's clock holds threads that have ended (QEMU's migration threads do before anyone could read theirs); what its vCPUs used,
/// which live on, is subtracted. The kernel brings a running thread's time up to date at its ticks: an error of a few milliseconds.
final class MachineProcessorTime: Sendable {
    struct Sample: Sendable {
        var atNanoseconds: UInt64
        var usedNanoseconds: UInt64
    }

    private static let periodMilliseconds: Int32 = 10

    private let samples = Mutex<[Sample]>([])
    private let isEnding = Atomic(false)
    private let thread = Mutex<DedicatedThread?>(nil)

    /// - Parameters:
    ///   - vcpus: how many the process has; 0 for one that is no QEMU.
    ///   - process: asked until it knows the process's id.
    init(vcpus: Int, process: @escaping @Sendable () -> pid_t?) {
        thread.withLock { thread in
            thread = DedicatedThread(name: "processor time") { [self] in
                var reader = MachineThreads(vcpus: vcpus)
                while true {
                    // Read before the sample: the last sample is then later than the call that ended it.
                    let isLast = isEnding.load(ordering: .acquiring)
                    if let process = process(), let sample = reader.sample(process) { samples.withLock { $0.append(sample) } }
                    if isLast { return }
                    _ = poll(nil, 0, Self.periodMilliseconds)
                }
            }
        }
    }

    /// Ends the reading, after one more sample.
    func stop() {
        isEnding.store(true, ordering: .releasing)
        thread.withLock { $0.take() }?.join()
    }

    /// The process has ended, and used so much: it may have done so before another sample was due.
    func ended(usedNanoseconds: UInt64) {
        stop()
        samples.withLock { $0.append(Sample(atNanoseconds: MonotonicClock.nowNanoseconds(), usedNanoseconds: usedNanoseconds)) }
    }

    /// Seconds used between two times, as seen by the samples around them.
    func seconds(fromNanoseconds: UInt64, toNanoseconds: UInt64) throws(DemonstrationError) -> Double {
        try Self.seconds(samples.withLock { $0 }, fromNanoseconds: fromNanoseconds, toNanoseconds: toNanoseconds)
    }

    static func seconds(_ samples: [Sample], fromNanoseconds: UInt64, toNanoseconds: UInt64) throws(DemonstrationError) -> Double {
        guard let first = samples.last(where: { $0.atNanoseconds <= fromNanoseconds }),
            let last = samples.first(where: { $0.atNanoseconds >= toNanoseconds })
        else { throw DemonstrationError("a QEMU's processor time was not read around its migration") }
        return last.usedNanoseconds > first.usedNanoseconds ? Double(last.usedNanoseconds - first.usedNanoseconds) / 1e9 : 0
    }
}

/// The threads of one QEMU that was started with `-name …,debug-threads=on`.
struct MachineThreads {
    private let vcpus: Int
    private var vcpuThreads: [String] = []

    init(vcpus: Int) { self.vcpus = vcpus }

    /// What the process used so far besides its vCPUs; nil before all of those exist, and when it has gone.
    mutating func sample(_ process: pid_t) -> MachineProcessorTime.Sample? {
        let tasks = "/proc/\(process)/task"
        if vcpuThreads.count < vcpus {
            let threads = ((try? FileManager.default.contentsOfDirectory(atPath: tasks)) ?? []).filter {
                Self.isVCPU((try? String(contentsOfFile: "\(tasks)/\($0)/comm", encoding: .utf8)) ?? "")
            }
            guard threads.count == vcpus else { return nil }
            vcpuThreads = threads
        }
        var ofVCPUs: UInt64 = 0
        for thread in vcpuThreads {
            guard let text = try? String(contentsOfFile: "\(tasks)/\(thread)/schedstat", encoding: .utf8),
                let used = Self.usedNanoseconds(text)
            else { return nil }
            ofVCPUs += used
        }
        guard let all = Self.nanoseconds(of: process) else { return nil }
        return .init(atNanoseconds: MonotonicClock.nowNanoseconds(), usedNanoseconds: all > ofVCPUs ? all - ofVCPUs : 0)
    }

    /// "CPU 0/TCG", "CPU 1/KVM".
    static func isVCPU(_ name: String) -> Bool { name.hasPrefix("CPU ") && name.contains("/") }

    /// The first of the three numbers in /proc/PID/task/TID/schedstat: time on a processor.
    static func usedNanoseconds(_ schedstat: String) -> UInt64? { schedstat.split(separator: " ").first.flatMap { UInt64($0) } }

    /// Every thread of a process, those that have ended too; nil when it has gone.
    private static func nanoseconds(of process: pid_t) -> UInt64? {
        var clock = clockid_t()
        var time = timespec()
        // SAFETY: both calls fill local variables.
        guard unsafe clock_getcpuclockid(process, &clock) == 0, unsafe clock_gettime(clock, &time) == 0 else { return nil }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
