import PageCore

/// How a session's thread waits for its next event.
public enum Polling: Sendable, Hashable {
    /// Never sleeps: the soonest answer, for a processor of its own.
    case busy
    /// Spins while somebody waits for a page, and this long after; where all processors of the host have something to run, and for
    /// pages nobody waits for, it sleeps at once.
    case adaptive(spinNanoseconds: UInt64 = 50_000)
    /// Sleeps at once.
    case event
}

/// How long a thread may spin now, by its `Polling`, what it waits for, and what the host has to spare.
struct SpinAllowance: ~Copyable {
    /// Longer than any wait of a session: it never comes to sleep.
    private static var busyNanoseconds: UInt64 { 1_000_000_000 }

    private let longestNanoseconds: UInt64
    /// nil where the answer is always the same.
    private var spareProcessors: SpareProcessors?
    private var lastAwaitedNanoseconds: UInt64 = 0

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

    /// The most that may be spun, whatever is waited for; 0 to sleep at once.
    mutating func nanoseconds(now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        spareProcessors?.areThere(nowNanoseconds: now) ?? true ? longestNanoseconds : 0
    }

    /// The same where only what a thread waits for is worth spinning: its page, and the next one it may want soon after.
    ///
    /// - Parameter isAwaited: whether a page is waited for now.
    mutating func nanoseconds(isAwaited: Bool, now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        if isAwaited { lastAwaitedNanoseconds = now }
        let most = nanoseconds(now: now)
        guard spareProcessors != nil else { return most }
        return most - min(most, now - lastAwaitedNanoseconds)
    }
}
