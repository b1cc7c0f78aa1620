import TestSupport
import Testing

@testable import PageFerry

@Suite(.leavesNothing) struct SpinAllowanceTests {
    private static let spin: UInt64 = 50
    private static let patience: UInt64 = 8 * spin

    /// A session's waits on a host whose processors are enough, or too few.
    private struct Waits: ~Copyable {
        var allowance: SpinAllowance
        var now: UInt64 = 1_000_000

        init(_ polling: Polling = .adaptive(spinNanoseconds: SpinAllowanceTests.spin), processorCount: Int = 1 << 20) {
            allowance = SpinAllowance(polling, spareProcessors: SpareProcessors(processorCount: processorCount))
        }

        /// One page is waited for, for so long, and then nobody waits.
        ///
        /// - Returns: how long could be spun at its beginning.
        mutating func wait(_ nanoseconds: UInt64) -> UInt64 {
            let allowed = allowance.nanoseconds(isAwaited: true, isPushing: false, now: now)
            now += nanoseconds
            _ = allowance.nanoseconds(isAwaited: false, isPushing: false, now: now)
            now += 1_000
            return allowed
        }

        /// The next piece of a push is waited for, by nobody.
        ///
        /// - Returns: how long could be spun for it.
        mutating func push(comesInTime: Bool) -> UInt64 {
            let allowed = allowance.nanoseconds(isAwaited: false, isPushing: true, now: now)
            allowance.spun(isInVain: !comesInTime)
            now += 1_000
            return allowed
        }
    }

    @Test func busyAlwaysSpinsAndEventNever() {
        var busy = Waits(.busy, processorCount: 0)
        var event = Waits(.event)
        for isAwaited in [true, false] {
            let spun = busy.allowance.nanoseconds(isAwaited: isAwaited, isPushing: false, now: busy.now)
            #expect(spun >= 1_000_000_000)
            let slept = event.allowance.nanoseconds(isAwaited: isAwaited, isPushing: false, now: event.now)
            #expect(slept == 0)
        }
    }

    @Test func aHostWithoutAProcessorToSpareIsNeverSpunOn() {
        var waits = Waits(processorCount: 0)
        let pushed = waits.push(comesInTime: true)
        #expect(pushed == 0)
        let answers = [
            waits.allowance.nanoseconds(isAwaited: true, isPushing: false, now: waits.now),
            waits.allowance.nanoseconds(isAwaited: false, isPushing: false, now: waits.now),
            waits.allowance.nanoseconds(), waits.allowance.patienceNanoseconds(isAwaited: true),
        ]
        #expect(answers == [0, 0, 0, 0])
    }

    /// Other events come and come: the spin after an answer ends all the same.
    @Test func theSpinAfterAnAnswerEnds() {
        var waits = Waits()
        var allowed = [waits.allowance.nanoseconds(isAwaited: false, isPushing: false, now: waits.now)]
        allowed.append(waits.allowance.nanoseconds(isAwaited: true, isPushing: false, now: waits.now))
        for _ in 0..<4 {
            waits.now += 20
            allowed.append(waits.allowance.nanoseconds(isAwaited: false, isPushing: false, now: waits.now))
        }
        #expect(allowed == [0, Self.patience, 30, 10, 0, 0])
    }

    /// What else comes meanwhile begins no new spin: the patience is that of the wait.
    @Test func anAnswersPatienceRunsFromTheWaitsBeginning() {
        var waits = Waits()
        var allowed: [UInt64] = []
        for _ in 0..<6 {
            allowed.append(waits.allowance.nanoseconds(isAwaited: true, isPushing: false, now: waits.now))
            waits.now += 100
        }
        #expect(allowed == [400, 300, 200, 100, 0, 0])
    }

    @Test func answersInTimeAreSpunForEachTime() {
        var waits = Waits()
        for _ in 0..<100 {
            let allowed = waits.wait(Self.patience - 1)
            if allowed != Self.patience { Issue.record("\(allowed)") }
        }
    }

    /// On a link whose answers all take longer: 1, 2, 4 ... waits go without a spin between two that try.
    @Test func spinsInVainBecomeRare() {
        var waits = Waits()
        var gaps: [Int] = []
        var without = 0
        for _ in 0..<2_000 {
            if waits.wait(Self.patience) == 0 {
                without += 1
            } else {
                gaps.append(without)
                without = 0
            }
        }
        #expect(Array(gaps.prefix(11)) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256])
    }

    /// A wait that outlasts its spin while other pages come is as much in vain as one that is slept through.
    @Test func vainIsAlsoWhatIsSeenToOutlastItsSpin() {
        var waits = Waits()
        let first = waits.allowance.nanoseconds(isAwaited: true, isPushing: false, now: waits.now)
        let second = waits.allowance.nanoseconds(isAwaited: true, isPushing: false, now: waits.now + Self.patience)
        waits.now += 2 * Self.patience
        _ = waits.allowance.nanoseconds(isAwaited: false, isPushing: false, now: waits.now)
        let rest = [waits.wait(1), waits.wait(1), waits.wait(1)]
        #expect([first, second] + rest == [Self.patience, 0, 0, Self.patience, Self.patience])
    }

    @Test func oneAnswerInTimeEndsTheCaution() {
        var waits = Waits()
        var allowed = (0..<5).map { _ in waits.wait(Self.patience) }  // Vain, none, vain, none, none.
        allowed += (0..<2).map { _ in waits.wait(1) }  // In time.
        allowed.append(waits.wait(Self.patience))  // Vain: as if for the first time.
        allowed += (0..<2).map { _ in waits.wait(1) }
        #expect(allowed.map { $0 > 0 } == [true, false, true, false, false, true, true, true, false, true])
    }

    @Test func aPushInQuickSuccessionIsSpunForEachTime() {
        var waits = Waits()
        let allowed = (0..<100).map { _ in waits.push(comesInTime: true) }
        #expect(Set(allowed) == [Self.spin])
    }

    /// A link slower than the spin: as for answers.
    @Test func spinsForAPushInVainBecomeRare() {
        var waits = Waits()
        var gaps: [Int] = []
        var without = 0
        for _ in 0..<900 {
            if waits.push(comesInTime: false) == 0 {
                without += 1
            } else {
                gaps.append(without)
                without = 0
            }
        }
        #expect(gaps == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 256])
    }

    /// What a push was not worth says nothing of answers, and the other way round.
    @Test func pushAndAnswersAreLearnedApart() {
        var waits = Waits()
        let allowed = [
            waits.push(comesInTime: false), waits.wait(Self.patience), waits.push(comesInTime: false), waits.wait(1),
            waits.push(comesInTime: true), waits.wait(1),
        ]
        #expect(allowed == [Self.spin, Self.patience, 0, 0, Self.spin, Self.patience])
    }

    /// A wait without a spin is not one in vain.
    @Test func onlyASpinForAPushIsJudged() {
        var waits = Waits()
        _ = waits.push(comesInTime: false)
        waits.allowance.spun(isInVain: true)
        let allowed = [waits.push(comesInTime: false), waits.push(comesInTime: true)]
        #expect(allowed == [0, Self.spin])
    }
}
