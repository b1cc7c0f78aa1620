import Testing

@testable import Demonstration

/// What the demonstration finds in a guest's own words: every kind of damage must be seen, and none invented.
@Suite struct GuestAccountTests {
    private static let millisecond: UInt64 = 1_000_000

    /// Ticks `numbers`, ten milliseconds apart from `startMilliseconds` on, a hundred pages of work in each.
    private func log(_ numbers: [Int], startMilliseconds: UInt64, then lines: [String] = []) -> GuestLog {
        var log = GuestLog()
        log.read("READY", arrivedNanoseconds: 0)
        var now = startMilliseconds
        for number in numbers {
            log.read("T \(number) 123456 \(number * 100)", arrivedNanoseconds: now * Self.millisecond)
            now += 10
        }
        for line in lines { log.read(line, arrivedNanoseconds: now * Self.millisecond) }
        return log
    }

    private func done(
        ticks: Int = 20, bad: Int = 0, diskReads: Int = 7, badReads: Int = 0, sums: Int = 3, badSums: Int = 0
    ) -> String {
        "DONE ticks=\(ticks) pages=2000 bad=\(bad) disk_reads=\(diskReads) bad_reads=\(badReads) sums=\(sums) bad_sums=\(badSums)"
    }

    private func account(
        source: [Int] = Array(1...10), destination: [Int] = Array(11...20), then lines: [String]
    ) -> GuestAccount {
        GuestAccount(
            source: log(source, startMilliseconds: 1000), destination: log(destination, startMilliseconds: 1250, then: lines))
    }

    @Test func aGuestThatNeverNoticed() {
        let account = account(then: [done()])
        #expect(account.faults == [])
        #expect(account.verdict == GuestLog.Verdict(ticks: 20, pages: 2000, diskReads: 7, sums: 3))
    }

    @Test func missingTick() {
        #expect(account(destination: [11, 12] + Array(14...20), then: [done()]).faults == ["tick 14 follows tick 12"])
    }

    @Test func missingTickAtTheSwitch() {
        #expect(account(destination: Array(12...20), then: [done()]).faults == ["tick 12 follows tick 10"])
    }

    @Test func repeatedTick() {
        #expect(account(destination: Array(10...20), then: [done()]).faults == ["tick 10 follows tick 10"])
    }

    @Test func badLine() {
        #expect(account(then: ["BAD page 77 holds 3", done()]).faults == ["BAD page 77 holds 3"])
    }

    @Test(arguments: ["T 5 x", "T five 0 100", "garbage", "Tick 11"]) func unreadableLine(_ line: String) {
        #expect(account(then: [line, done()]).faults == [line])
    }

    @Test func wrongTickCount() {
        #expect(account(then: [done(ticks: 19)]).faults == ["the guest counted 19 ticks, 20 were seen"])
    }

    @Test func badCounts() {
        for line in [done(bad: 1), done(badReads: 1), done(badSums: 1)] {
            let faults = account(then: [line]).faults
            #expect(faults.count == 1 && faults[0].hasPrefix("the guest counted"))
        }
    }

    @Test func verdictWithoutItsCounts() {
        let faults = account(then: ["DONE ticks=20"]).faults
        #expect(faults.contains { $0.contains("-1 bad pages, -1 bad reads, -1 bad sums") }, "what is not said is not taken for good")
    }

    @Test func noVerdict() {
        #expect(account(then: []).faults == ["the guest gave no verdict"])
    }

    @Test func noDiskOrFileRead() {
        #expect(account(then: [done(diskReads: 0)]).faults == ["the guest read no disk or no file"])
        #expect(account(then: [done(sums: 0)]).faults == ["the guest read no disk or no file"])
    }

    @Test func neverTicked() {
        #expect(account(source: [], then: [done()]).faults.contains("the guest never ticked on the source"))
        let nothing = account(destination: [], then: [done(ticks: 10)])
        #expect(nothing.faults == ["the guest never ticked at the destination"])
        #expect(nothing.gapMilliseconds == 0)
    }

    @Test func faultsAreBounded() {
        #expect(account(destination: stride(from: 12, to: 200, by: 2).map { $0 }, then: []).faults.count == 20)
    }

    @Test func gapAndWork() {
        // The last tick on the source is at 1090 ms with 1000 pages, the first at the destination at 1250 ms.
        let account = account(destination: Array(11...200), then: [done(ticks: 200)])
        #expect(account.faults == [])
        #expect(abs(account.gapMilliseconds - 160) < 0.001)
        // Up to 1340 ms: ticks 11 to 20.
        #expect(account.pagesIn250Milliseconds == 1000)
        // Up to 2090 ms: ticks 11 to 95.
        #expect(account.pagesIn1Second == 8500)
    }

    @Test func workBeforeTheFirstTickIsNone() {
        let late = GuestAccount(
            source: log(Array(1...10), startMilliseconds: 1000),
            destination: log(Array(11...20), startMilliseconds: 1600, then: [done()]))
        #expect(late.pagesIn250Milliseconds == 0)
        #expect(late.pagesIn1Second == 1000)
    }
}
