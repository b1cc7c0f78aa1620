import Histogram
import PageCore
import PageFerry
import Synchronization

/// What one thread of the memory demonstration saw.
public struct AccessReport: Sendable, Codable {
    public var pattern: String
    /// Pages visited, each compared byte by byte.
    public var pages: Int
    public var wrongPages: Int
    /// Visits that took longer than a microsecond and so, most likely, waited for the page.
    public var waits: Int
    public var waitP50Microseconds: Double
    public var waitP99Microseconds: Double
    public var waitMaxMicroseconds: Double
}

/// Threads that use the destination's memory while its pages arrive.
final class MemoryAccessors: Sendable {
    /// A touch of a page that is here takes tens of nanoseconds; of one that is not, tens of microseconds.
    private static let waitNanoseconds: UInt64 = 1_000

    private let memory: PatternedMemory
    /// Keeps the memory mapped for as long as threads may wait for it.
    private let owner: any Sendable
    private let isStopped = Atomic(false)
    private let touched = Atomic<UInt64>(0)
    private let reports = Mutex<[AccessReport]>([])
    private let threads = Mutex<[DedicatedThread]>([])

    init(_ memory: PatternedMemory, keeping owner: any Sendable) {
        self.memory = memory
        self.owner = owner
    }

    /// Starts one verifying thread a pattern, and one thread that rewrites the pages set aside for it.
    func start(seed: UInt64) {
        threads.withLock { threads in
            for (number, pattern) in AccessPattern.allCases.enumerated() {
                threads.append(
                    DedicatedThread(name: "use-\(pattern.rawValue)") { [self] in
                        verify(pattern, SeededRandom(seed: seed &+ UInt64(number)))
                    })
            }
            threads.append(DedicatedThread(name: "rewrite") { [self] in rewrite() })
        }
    }

    /// Waits until the rewriting thread is through, stops the others, and answers what each saw.
    func finish() -> [AccessReport] {
        var running = threads.withLock { threads in
            defer { threads.removeAll() }
            return threads
        }
        running.removeLast().join()
        isStopped.store(true, ordering: .relaxed)
        for thread in running { thread.join() }
        return reports.withLock { $0 }.sorted { $0.pattern < $1.pattern }
    }

    private func verify(_ pattern: AccessPattern, _ seeded: SeededRandom) {
        var random = seeded
        var waits = Histogram<UInt64>(
            lowestDiscernibleValue: 100, highestTrackableValue: 100_000_000_000, numberOfSignificantValueDigits: .three)
        var report = AccessReport(
            pattern: pattern.rawValue, pages: 0, wrongPages: 0, waits: 0, waitP50Microseconds: 0, waitP99Microseconds: 0,
            waitMaxMicroseconds: 0)
        // Kept, so that the compiler may not leave out the accesses that are timed.
        var seen: UInt64 = 0
        for step in 0..<memory.pageCount {
            if isStopped.load(ordering: .relaxed) { break }
            let page = pattern.page(step, of: memory.pageCount, &random)
            // Only the rewriting thread looks at its pages before the end.
            if case .rewritten = MemoryPattern.content(of: page) { continue }
            let start = MonotonicClock.nowNanoseconds()
            seen ^= memory.touch(page)
            let elapsed = MonotonicClock.nowNanoseconds() - start
            if elapsed > Self.waitNanoseconds { waits.record(elapsed) }
            report.pages += 1
            if !memory.isRight(page, version: 0) { report.wrongPages += 1 }
        }
        touched.store(seen, ordering: .relaxed)
        if waits.totalCount > 0 {
            report.waits = Int(waits.totalCount)
            report.waitP50Microseconds = Double(waits.valueAtPercentile(50)) / 1_000
            report.waitP99Microseconds = Double(waits.valueAtPercentile(99)) / 1_000
            report.waitMaxMicroseconds = Double(waits.max) / 1_000
        }
        reports.withLock { $0.append(report) }
    }

    /// Rewrites every page set aside, each after comparing what came: late bytes must never undo it.
    private func rewrite() {
        var report = AccessReport(
            pattern: "rewrite", pages: 0, wrongPages: 0, waits: 0, waitP50Microseconds: 0, waitP99Microseconds: 0,
            waitMaxMicroseconds: 0)
        for page in 0..<memory.pageCount {
            guard case .rewritten = MemoryPattern.content(of: page) else { continue }
            report.pages += 1
            if !memory.isRight(page, version: 0) { report.wrongPages += 1 }
            memory.write(page, version: 1)
        }
        reports.withLock { $0.append(report) }
    }
}
