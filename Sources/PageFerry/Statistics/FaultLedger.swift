import Histogram
import PageCore

/// The faults that wait, and how long those waited that do not any more.
///
/// The time of a fault runs from the moment its event was read from the userfaultfd to the return of the system call that
/// made the page visible: what an external observer can measure of any fault handler.
struct FaultLedger: ~Copyable {
    private struct Entry {
        var sessionPage: Int
        var startNanoseconds: UInt64
    }

    /// The most faults timed at once. Beyond it faults are served as ever, and counted in `untimed`.
    private static let mostEntries = 1024

    private var entries: ContiguousArray<Entry> = []
    /// Latencies in nanoseconds, from 100 ns to 100 s, to three digits.
    private(set) var latencies: Histogram<UInt64>
    private(set) var untimed = 0

    init() {
        entries.reserveCapacity(Self.mostEntries)
        latencies = Histogram<UInt64>(
            lowestDiscernibleValue: 100, highestTrackableValue: 100_000_000_000, numberOfSignificantValueDigits: .three)
    }

    var waiting: Int { entries.count }

    /// Whether a thread waits for the page.
    func isWaiting(_ sessionPage: Int) -> Bool { entries.contains { $0.sessionPage == sessionPage } }

    /// A fault has been read. A page that waits already keeps its first time.
    mutating func begin(sessionPage: Int, nowNanoseconds: UInt64) {
        for entry in entries where entry.sessionPage == sessionPage { return }
        guard entries.count < Self.mostEntries else {
            untimed += 1
            return
        }
        entries.append(Entry(sessionPage: sessionPage, startNanoseconds: nowNanoseconds))
    }

    /// The pages are visible. O(waiting faults), of which there are as many as guest threads that wait.
    mutating func end(sessionPages: Range<Int>) {
        guard !entries.isEmpty else { return }
        var now: UInt64 = 0
        var index = 0
        while index < entries.count {
            if sessionPages.contains(entries[index].sessionPage) {
                if now == 0 { now = MonotonicClock.nowNanoseconds() }
                latencies.record(now - entries[index].startNanoseconds)
                entries.swapAt(index, entries.count - 1)
                entries.removeLast()
            } else {
                index += 1
            }
        }
    }
}
