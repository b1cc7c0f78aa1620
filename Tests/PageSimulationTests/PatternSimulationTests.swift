import PageCore
import PageEngine
import PageSimulation
import PageWire
import Testing

@Suite struct PatternSimulationTests {
    private static func layout(_ pages: Int) throws -> RegionLayout {
        try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
    }

    @Test(arguments: TouchPattern.standard, [1 << 14, 1 << 15]) func adaptiveWindowsKeepTheirPromises(pattern: TouchPattern, pages: Int)
        throws
    {
        for seed in UInt64(1)...3 {
            let touches = pattern.touches(pageCount: pages, seed: seed)
            let outcome = PatternSimulation.run(touches, layout: try Self.layout(pages), policy: .adaptive())
            #expect(outcome.touchedPages == Set(touches).count)
            #expect(outcome.networkFaults > 0 && outcome.sentPages >= outcome.touchedPages)
            if pattern.isRegular { #expect(outcome.networkFaultPercent <= 3, "\(pattern.name): \(outcome)") }
            if pattern == .uniform { #expect(outcome.unusedPercent <= 10, "\(outcome)") }
        }
    }

    /// Chance brings random pages near each other in small memories, in rows and in blocks; it must not be taken for order.
    @Test(arguments: [TouchPattern.uniform, .zipf], [1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15])
    func chanceIsNoEvidence(pattern: TouchPattern, pages: Int) throws {
        for seed in UInt64(1)...8 {
            let touches = pattern.touches(pageCount: pages, seed: seed)
            let outcome = PatternSimulation.run(touches, layout: try Self.layout(pages), policy: .adaptive())
            #expect(outcome.unusedPercent <= 10, "seed \(seed): \(outcome)")
        }
    }

    /// Half of the pages of blocks of 16, in random order: neighbours are worth fetching, and small memories are no exception.
    @Test(arguments: [1 << 13, 1 << 14, 1 << 15]) func neighboursAreFoundInSmallMemories(pages: Int) throws {
        var random = SeededRandom(seed: 5)
        var blocks = Array(0..<(pages / 16))
        blocks.shuffle(using: &random)
        let touches = blocks.flatMap { block in
            var inside = Array(0..<16)
            inside.shuffle(using: &random)
            return inside.prefix(8).map { block * 16 + $0 }
        }
        let outcome = PatternSimulation.run(touches, layout: try Self.layout(pages), policy: .adaptive())
        #expect(outcome.networkFaultPercent <= 50, "\(outcome)")
    }

    /// Windows of one page: every first touch waits for the wire, and nothing else crosses. The model can say no.
    @Test func withoutWindowsEveryTouchWaits() throws {
        let touches = TouchPattern.sequential.touches(pageCount: 1000, seed: 1)
        let outcome = PatternSimulation.run(touches + touches, layout: try Self.layout(1000), policy: WindowPolicy(windowBytes: 4096))
        #expect(outcome.networkFaults == 1000 && outcome.localFaults == 0)
        #expect(outcome.sentPages == 1000 && outcome.unusedPages == 0)
        #expect(outcome.waitedNanoseconds >= 1000 * 50_000)
    }

    /// A thread that is faster than the link waits for it again and again, and still moves at the link's rate.
    @Test func aThreadFasterThanTheLinkMovesAtItsRate() throws {
        var host = PatternSimulation.Host()
        host.thinkNanoseconds = 100
        host.linkBytesPerMicrosecond = 125
        let pages = 1 << 13
        let touches = TouchPattern.sequential.touches(pageCount: pages, seed: 1)
        let outcome = PatternSimulation.run(touches, layout: try Self.layout(pages), policy: .adaptive(), host: host)
        let wireNanoseconds = pages * 4096 * 1000 / host.linkBytesPerMicrosecond
        #expect(outcome.elapsedNanoseconds < wireNanoseconds * 11 / 10)
    }

    @Test func theSecondRunOfATraceHardlyFaults() throws {
        let layout = try Self.layout(1 << 15)
        var random = SeededRandom(seed: 9)
        let touches = (0..<6_000).map { _ in random.next(below: 1 << 15) }
        var recorder = TraceRecorder(layout: layout)
        var seen: Set<Int> = []
        for page in touches where seen.insert(page).inserted { recorder.record(page..<(page + 1)) }
        let trace = try PageTrace(decoding: recorder.finish())
        let first = PatternSimulation.run(touches, layout: layout, policy: .adaptive())
        let second = PatternSimulation.run(touches, layout: layout, policy: .adaptive(), replaying: trace)
        #expect(second.networkFaults * 20 <= first.networkFaults, "\(second.networkFaults) of \(first.networkFaults)")
        #expect(second.unusedPages == 0)
    }

    /// A guest that touches pages faster than the link brings them waits for the link, and for nothing else: a fault neither stops
    /// the replay nor brings pages that the trace does not name.
    @Test func aReplayOverASlowLinkKeepsItFull() throws {
        let layout = try Self.layout(1 << 15)
        var random = SeededRandom(seed: 9)
        var pages = Array(0..<(1 << 15))
        pages.shuffle(using: &random)
        let touches = Array(pages.prefix(4_000))
        var recorder = TraceRecorder(layout: layout)
        for page in touches { recorder.record(page..<(page + 1)) }
        var host = PatternSimulation.Host()
        host.linkBytesPerMicrosecond = 125
        let trace = try PageTrace(decoding: recorder.finish())
        let blocks = WindowPolicy(windowBytes: 64 << 10)
        let outcome = PatternSimulation.run(touches, layout: layout, policy: blocks, host: host, replaying: trace)
        #expect(outcome.sentPages == 4_000)
        let wireNanoseconds = 4_000 * 4096 * 1000 / host.linkBytesPerMicrosecond
        #expect(outcome.elapsedNanoseconds < wireNanoseconds * 21 / 20, "\(outcome)")
    }
}
