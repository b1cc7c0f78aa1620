import Testing

@testable import PageEngine

/// The pacer on links that burst, drop and jitter (`PushLinkModel`).
@Suite struct PushPacerLinkTests {
    private static let second: UInt64 = 1_000_000_000

    /// 100 Mbit/s to 10 Gbit/s, rack to 20 ms of round trip, a switch's queue and a far longer one. A queue of less than two
    /// steps of the model is none.
    static let links: [PushLinkModel.Link] = [12.5e6, 125e6, 1.25e9].flatMap { rate in
        ([10_000, 100_000, 1_000_000, 10_000_000] as [UInt64]).flatMap { delay in
            [1 << 20, 8 << 20].map { PushLinkModel.Link(bytesPerSecond: rate, delayNanoseconds: delay, queueBytes: $0) }
        }
    }

    private static func boundNanoseconds(_ link: PushLinkModel.Link) -> UInt64 {
        let floor = UInt64(Double(PushPacer.floorBytes) / link.bytesPerSecond * 1e9)
        return max(PushPacer.standardDelayTargetNanoseconds, floor) * 3 / 2
    }

    @Test(arguments: links, [1, 2, 3] as [UInt64]) func isFullWithAShortQueue(link: PushLinkModel.Link, seed: UInt64) {
        var model = PushLinkModel(link, seed: seed)
        let start = model.run(2 * Self.second)
        #expect(start.use > 0.8, "the start is part of a push")
        let steady = model.run(2 * Self.second)
        #expect(steady.use > 0.95)
        #expect(steady.queueP99Nanoseconds <= Self.boundNanoseconds(link))
    }

    /// 100 ms of round trip: slower to start, and never much of a queue once it runs.
    @Test(arguments: [12.5e6, 125e6]) func fillsALongLink(bytesPerSecond: Double) {
        let link = PushLinkModel.Link(bytesPerSecond: bytesPerSecond, delayNanoseconds: 50_000_000, queueBytes: 1 << 20)
        var model = PushLinkModel(link, seed: 1)
        _ = model.run(4 * Self.second)
        #expect(model.run(4 * Self.second).use > 0.8)
    }

    /// A source that has nothing to send for a while says nothing of the link.
    @Test(arguments: links) func aPauseChangesNothing(link: PushLinkModel.Link) {
        var model = PushLinkModel(link, seed: 4)
        _ = model.run(2 * Self.second)
        let before = model.pacer.windowBytes
        _ = model.run(Self.second / 2, isPushing: false)
        #expect(model.pacer.windowBytes > before / 2)
        #expect(model.run(Self.second).use > 0.9)
    }

    /// A link that slows down to a tenth, and comes back.
    @Test func followsTheLinksRate() {
        let fast = PushLinkModel.Link(bytesPerSecond: 1.25e9, delayNanoseconds: 100_000, queueBytes: 4 << 20)
        var slow = fast
        slow.bytesPerSecond /= 10
        var model = PushLinkModel(fast, seed: 5)
        _ = model.run(Self.second)
        model.link = slow
        _ = model.run(Self.second)
        let slowed = model.run(Self.second)
        #expect(slowed.use > 0.95)
        #expect(slowed.queueP99Nanoseconds <= Self.boundNanoseconds(slow))
        model.link = fast
        _ = model.run(2 * Self.second)
        #expect(model.run(Self.second).use > 0.9)
    }

    /// Scheduling that spreads round trips over more than the delay target must not close the window.
    @Test func jitterIsNoQueue() {
        let link = PushLinkModel.Link(bytesPerSecond: 2.5e9, delayNanoseconds: 15_000, queueBytes: 4 << 20, jitterNanoseconds: 2_000_000)
        var model = PushLinkModel(link, seed: 6)
        _ = model.run(2 * Self.second)
        #expect(model.run(2 * Self.second).use > 0.9)
    }
}
