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
            let allowed = allowance.nanoseconds(isAwaited: true, now: now)
            now += nanoseconds
            _ = allowance.nanoseconds(isAwaited: false, now: now)
            now += 1_000
            return allowed
        }
    }

    @Test func busyAlwaysSpinsAndEventNever() {
        var busy = Waits(.busy, processorCount: 0)
        var event = Waits(.event)
        for isAwaited in [true, false] {
            let spun = busy.allowance.nanoseconds(isAwaited: isAwaited, now: busy.now)
            #expect(spun >= 1_000_000_000)
            let slept = event.allowance.nanoseconds(isAwaited: isAwaited, now: event.now)
            #expect(slept == 0)
        }
    }

    @Test func aHostWithoutAProcessorToSpareIsNeverSpunOn() {
        var waits = Waits(processorCount: 0)
        let answers = [
            waits.allowance.nanoseconds(isAwaited: true, now: waits.now), waits.allowance.nanoseconds(isAwaited: false, now: waits.now),
            waits.allowance.nanoseconds(), waits.allowance.patienceNanoseconds(isAwaited: true),
        ]
        #expect(answers == [0, 0, 0, 0])
    }

    /// Pushed pages come and come: the spin after an answer ends all the same.
    @Test func pagesThatNobodyWaitsForAreNotSpunFor() {
        var waits = Waits()
        var allowed = [waits.allowance.nanoseconds(isAwaited: false, now: waits.now)]
        allowed.append(waits.allowance.nanoseconds(isAwaited: true, now: waits.now))
        for _ in 0..<4 {
            waits.now += 20
            allowed.append(waits.allowance.nanoseconds(isAwaited: false, now: waits.now))
        }
        #expect(allowed == [0, Self.patience, 30, 10, 0, 0])
    }

    /// What else comes meanwhile begins no new spin: the patience is that of the wait.
    @Test func anAnswersPatienceRunsFromTheWaitsBeginning() {
        var waits = Waits()
        var allowed: [UInt64] = []
        for _ in 0..<6 {
            allowed.append(waits.allowance.nanoseconds(isAwaited: true, now: waits.now))
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
        let first = waits.allowance.nanoseconds(isAwaited: true, now: waits.now)
        let second = waits.allowance.nanoseconds(isAwaited: true, now: waits.now + Self.patience)
        waits.now += 2 * Self.patience
        _ = waits.allowance.nanoseconds(isAwaited: false, now: waits.now)
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
}
