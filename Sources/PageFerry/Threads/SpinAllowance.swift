import PageCore

/// How long a thread may spin now, by its `Polling`, what it waits for, what spinning was good for, and what the host has to spare.
///
/// A wait is the time in which pages are waited for without a break. One that outlasts its spin has cost a processor for nothing,
/// and on a host that is full, or whose scheduler puts the peer behind the thread that spins for it, the answer besides: the next
/// wait goes without, after the next vain one two, then four, up to `mostWaitsWithout`; an answer that comes in time ends that.
struct SpinAllowance: ~Copyable {
    /// Longer than any wait of a session: it never comes to sleep.
    private static var busyNanoseconds: UInt64 { 1_000_000_000 }
    /// How many times longer than otherwise to spin while an answer is awaited: a sleep would cost as much as the answer itself.
    private static var answerSpins: UInt64 { 8 }
    private static var mostWaitsWithout: Int { 256 }

    private let longestNanoseconds: UInt64
    private let isAdaptive: Bool
    /// nil where the answer is always the same.
    private var spareProcessors: SpareProcessors?
    /// When the wait that lasts began; nil when nobody waits.
    private var waitStartNanoseconds: UInt64?
    private var lastAwaitedNanoseconds: UInt64 = 0
    private var isWaitWithout = false
    /// Waits that go without a spin, from the next on.
    private var waitsWithout = 0
    private var waitsWithoutNext = 1

    init(_ polling: Polling) { self.init(polling, spareProcessors: SpareProcessors()) }

    init(_ polling: Polling, spareProcessors: consuming SpareProcessors) {
        switch polling {
        case .busy: longestNanoseconds = Self.busyNanoseconds
        case .adaptive(let spinNanoseconds): longestNanoseconds = spinNanoseconds
        case .event: longestNanoseconds = 0
        }
        if case .adaptive = polling {
            isAdaptive = true
            self.spareProcessors = consume spareProcessors
        } else {
            isAdaptive = false
            self.spareProcessors = nil
        }
    }

    /// The most that may be spun, whatever is waited for; 0 to sleep at once.
    mutating func nanoseconds(now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        spareProcessors?.areThere(nowNanoseconds: now) ?? true ? longestNanoseconds : 0
    }

    /// The same where every event may be an answer.
    mutating func patienceNanoseconds(isAwaited: Bool) -> UInt64 {
        let most = nanoseconds()
        return isAwaited ? Self.patience(most) : most
    }

    /// The same where only what a thread waits for is worth spinning: its page, and the next one it may want soon after.
    ///
    /// - Parameter isAwaited: whether a page is waited for now.
    mutating func nanoseconds(isAwaited: Bool, now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        guard isAdaptive else { return isAwaited ? Self.patience(longestNanoseconds) : longestNanoseconds }
        if isAwaited {
            lastAwaitedNanoseconds = now
            return answerNanoseconds(now)
        }
        endWait(now)
        return nanoseconds(now: now).subtractingOrZero(now - lastAwaitedNanoseconds)
    }

    private mutating func answerNanoseconds(_ now: UInt64) -> UInt64 {
        let start = waitStartNanoseconds ?? now
        if waitStartNanoseconds == nil {
            waitStartNanoseconds = now
            let isAllowed = nanoseconds(now: now) > 0
            isWaitWithout = !isAllowed || waitsWithout > 0
            if isAllowed { waitsWithout = max(0, waitsWithout - 1) }
        }
        guard !isWaitWithout else { return 0 }
        let rest = Self.patience(longestNanoseconds).subtractingOrZero(now - start)
        if rest == 0 { spunInVain() }
        return nanoseconds(now: now) > 0 ? rest : 0
    }

    private mutating func endWait(_ now: UInt64) {
        guard let start = waitStartNanoseconds else { return }
        waitStartNanoseconds = nil
        guard !isWaitWithout else { return }
        if now - start >= Self.patience(longestNanoseconds) { spunInVain() } else { waitsWithoutNext = 1 }
    }

    private mutating func spunInVain() {
        isWaitWithout = true
        waitsWithout = waitsWithoutNext
        waitsWithoutNext = min(2 * waitsWithoutNext, Self.mostWaitsWithout)
    }

    private static func patience(_ nanoseconds: UInt64) -> UInt64 {
        let (patience, isEndless) = nanoseconds.multipliedReportingOverflow(by: answerSpins)
        return isEndless ? .max : patience
    }
}

extension UInt64 {
    fileprivate func subtractingOrZero(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}
