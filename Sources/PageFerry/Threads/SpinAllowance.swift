import PageCore

/// How long a thread may spin now, by its `Polling`, what it waits for, what spinning was good for, and what the host has to spare.
///
/// A wait is the time in which pages are waited for without a break. One that outlasts its spin has cost a processor for nothing,
/// and on a host that is full, or whose scheduler puts the peer behind the thread that spins for it, the answer besides: then
/// spins become rare (`VainSpins`). The next piece of a push, for which nobody waits, is spun for by the same rule.
struct SpinAllowance: ~Copyable {
    /// Longer than any wait of a session: it never comes to sleep.
    private static var busyNanoseconds: UInt64 { 1_000_000_000 }
    /// How many times longer than otherwise to spin while an answer is awaited: a sleep would cost as much as the answer itself.
    private static var answerSpins: UInt64 { 8 }

    private let longestNanoseconds: UInt64
    /// nil where the answer is always the same: in the modes that do not adapt.
    private var spareProcessors: SpareProcessors?
    /// When the wait that lasts began; nil when nobody waits.
    private var waitStartNanoseconds: UInt64?
    private var lastAwaitedNanoseconds: UInt64 = 0
    private var isWaitWithout = false
    private var answers = VainSpins()
    private var pushes = VainSpins()
    private var isSpinningForPush = false

    init(_ polling: Polling) { self.init(polling, spareProcessors: SpareProcessors()) }

    init(_ polling: Polling, spareProcessors: consuming SpareProcessors) {
        switch polling {
        case .busy: longestNanoseconds = Self.busyNanoseconds
        case .adaptive(let spinNanoseconds): longestNanoseconds = spinNanoseconds
        case .event: longestNanoseconds = 0
        }
        if case .adaptive = polling { self.spareProcessors = consume spareProcessors } else { self.spareProcessors = nil }
    }

    private var isAdaptive: Bool { spareProcessors != nil }

    /// The most that may be spun, whatever is waited for; 0 to sleep at once.
    mutating func nanoseconds(now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        spareProcessors?.areThere(nowNanoseconds: now) ?? true ? longestNanoseconds : 0
    }

    /// The same where every event may be an answer.
    mutating func patienceNanoseconds(isAwaited: Bool) -> UInt64 {
        let most = nanoseconds()
        return isAwaited ? Self.patience(most) : most
    }

    /// The same where only some of what may come is worth spinning: the page that a thread waits for, the next one it may want
    /// soon after, and a push that comes in quick succession.
    ///
    /// - Parameters:
    ///   - isAwaited: whether a page is waited for now.
    ///   - isPushing: whether pushed pages are on their way.
    mutating func nanoseconds(isAwaited: Bool, isPushing: Bool, now: UInt64 = MonotonicClock.nowNanoseconds()) -> UInt64 {
        isSpinningForPush = false
        guard isAdaptive else { return isAwaited ? Self.patience(longestNanoseconds) : longestNanoseconds }
        if isAwaited {
            lastAwaitedNanoseconds = now
            return answerNanoseconds(now)
        }
        endWait(now)
        let afterAnswer = nanoseconds(now: now).subtractingOrZero(now - lastAwaitedNanoseconds)
        return isPushing && afterAnswer == 0 ? pushNanoseconds(now) : afterAnswer
    }

    /// What became of the spin that was allowed last.
    mutating func spun(isInVain: Bool) {
        guard isSpinningForPush else { return }
        isSpinningForPush = false
        pushes.spun(isInVain: isInVain)
    }

    private mutating func pushNanoseconds(_ now: UInt64) -> UInt64 {
        guard nanoseconds(now: now) > 0, pushes.next() else { return 0 }
        isSpinningForPush = true
        return longestNanoseconds
    }

    private mutating func answerNanoseconds(_ now: UInt64) -> UInt64 {
        let start = waitStartNanoseconds ?? now
        if waitStartNanoseconds == nil {
            waitStartNanoseconds = now
            isWaitWithout = nanoseconds(now: now) == 0 || !answers.next()
        }
        guard !isWaitWithout else { return 0 }
        let rest = Self.patience(longestNanoseconds).subtractingOrZero(now - start)
        if rest == 0 { spunForAnswer(isInVain: true) }
        return nanoseconds(now: now) > 0 ? rest : 0
    }

    private mutating func endWait(_ now: UInt64) {
        guard let start = waitStartNanoseconds else { return }
        waitStartNanoseconds = nil
        guard !isWaitWithout else { return }
        spunForAnswer(isInVain: now - start >= Self.patience(longestNanoseconds))
    }

    private mutating func spunForAnswer(isInVain: Bool) {
        isWaitWithout = isInVain
        answers.spun(isInVain: isInVain)
    }

    private static func patience(_ nanoseconds: UInt64) -> UInt64 {
        let (patience, isEndless) = nanoseconds.multipliedReportingOverflow(by: answerSpins)
        return isEndless ? .max : patience
    }
}

extension UInt64 {
    fileprivate func subtractingOrZero(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}
