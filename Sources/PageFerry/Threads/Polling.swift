import PageCore

/// How a session's thread waits for its next event.
public enum Polling: Sendable, Hashable {
    /// Never sleeps: the soonest answer, for a processor of its own.
    case busy
    /// Spins this long after something happened, then sleeps; where all processors of the host have something to run, it sleeps at once.
    case adaptive(spinNanoseconds: UInt64 = 50_000)
    /// Sleeps at once.
    case event
}

/// How long a thread may spin now, by its `Polling` and what the host has to spare.
struct SpinAllowance: ~Copyable {
    /// Longer than any wait of a session: it never comes to sleep.
    private static var busyNanoseconds: UInt64 { 1_000_000_000 }

    private let longestNanoseconds: UInt64
    /// nil where the answer is always the same.
    private var spareProcessors: SpareProcessors?

    init(_ polling: Polling) {
        switch polling {
        case .busy:
            longestNanoseconds = Self.busyNanoseconds
            spareProcessors = nil
        case .adaptive(let spinNanoseconds):
            longestNanoseconds = spinNanoseconds
            spareProcessors = spinNanoseconds > 0 ? SpareProcessors() : nil
        case .event:
            longestNanoseconds = 0
            spareProcessors = nil
        }
    }

    /// 0 to sleep at once.
    mutating func nanoseconds(now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        spareProcessors?.areThere(nowNanoseconds: now) ?? true ? longestNanoseconds : 0
    }
}
