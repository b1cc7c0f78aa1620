import PageCore
import PageEngine
import PageWire
import Testing

/// A whole region taken out while the session goes on, in every order with what else happens: its memory is let go as soon as
/// nothing is received there, and never touched again; the other region is served as ever, and the end is told once.
@Suite struct RegionRemovalTests {
    enum Step {
        case fault(RegionIndex, PageIndex)
        case place(PageRange, PageReason, lane: Int)
        case arrived(lane: Int)
        case lost(lane: Int)
        case zero(PageRange)
        case removed(PageRange)
        case takeOut(RegionIndex)
        case retry
    }

    static func range(_ region: RegionIndex, _ first: Int, _ count: Int = 1) -> PageRange {
        PageRange(region: region, first: first, count: count)
    }

    /// Two regions of `pages` pages each.
    private func explore(_ scripts: [[Step]], pages: Int, _ receivesInPlace: [Bool]) throws -> Int {
        let layout = try RegionLayout(
            (0..<2).map { try RegionDescription(name: "ram\($0)", lengthBytes: pages << 12, pageSize: .fourKiB) })
        return try forEveryInterleaving(of: scripts) { order in
            var destination = CheckedDestination(layout, receivesInPlace: receivesInPlace, laneCount: 3)
            var leaving: Set<RegionIndex> = []
            for step in order {
                try perform(step, &destination, &leaving)
                // As a session does it, in every turn.
                for region in leaving where destination.release(region) { leaving.remove(region) }
            }
            destination.retry()
            destination.retry()
            #expect(leaving.isEmpty)
            if destination.model.reports != 1 { destination.model.faults.append("\(destination.model.reports) reports of the end") }
            if destination.engine.waitingPages > 0 { destination.model.faults.append("threads wait for good") }
            for lane in 0..<3 { try destination.ended(lane: lane) }
            if !destination.model.faults.isEmpty {
                Issue.record("\(destination.model.faults[0]), after \(order)")
                throw DestinationInterleavingTests.Stop()
            }
        }
    }

    private func perform(_ step: Step, _ destination: inout CheckedDestination, _ leaving: inout Set<RegionIndex>) throws {
        switch step {
        // Nobody faults, and no event comes, where nothing is registered.
        case .fault(let region, let page): if !destination.model.released.contains(region) { destination.fault(region, page) }
        case .removed(let range): if !destination.model.released.contains(range.region) { destination.removed(range) }
        case .place(let range, let reason, let lane): try destination.place(range, reason: reason, lane: lane)
        case .arrived(let lane): destination.arrived(lane: lane)
        case .lost(let lane): destination.lost(lane: lane)
        case .zero(let range): try destination.zero(range)
        case .retry: destination.retry()
        case .takeOut(let region):
            destination.removed(destination.engine.layout.wholeRange(region))
            leaving.insert(region)
        }
    }

    private static let kinds = [[true, true], [true, false], [false, true], [false, false]]

    @Test(arguments: kinds) func againstDemandsAndThePushInEveryOrder(_ receivesInPlace: [Bool]) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 0, 2), .push, lane: 1), .arrived(lane: 1)],
                [.place(Self.range(1, 0, 2), .demand, lane: 0), .arrived(lane: 0)],
                [.fault(0, 0), .fault(0, 1)],
                [.takeOut(0)],
                [.fault(1, 1)],
            ], pages: 2, receivesInPlace)
        #expect(count == 5_040)
    }

    /// Zeros, single removals and two lanes that write into the region that leaves.
    @Test(arguments: kinds.filter { $0[1] }) func againstZerosRemovalsAndTwoLanesInEveryOrder(_ receivesInPlace: [Bool]) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 0), .demand, lane: 0), .arrived(lane: 0)],
                [.place(Self.range(0, 1), .push, lane: 1), .arrived(lane: 1)],
                [.zero(Self.range(0, 2)), .zero(Self.range(1, 0, 3))],
                [.removed(Self.range(0, 1)), .fault(0, 1)],
                [.takeOut(0)],
            ], pages: 3, receivesInPlace)
        #expect(count == 22_680)
    }

    /// A lane breaks over the region that leaves, or another over the one that stays, which then gets its pages once more.
    @Test(arguments: kinds) func aLaneLostInEveryOrder(_ receivesInPlace: [Bool]) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 0, 2), .push, lane: 1), .lost(lane: 1)],
                [
                    .place(Self.range(1, 0, 2), .push, lane: 2), .lost(lane: 2), .place(Self.range(1, 0, 2), .push, lane: 2),
                    .arrived(lane: 2),
                ],
                [.fault(0, 1)],
                [.takeOut(0)],
                [.fault(1, 0)],
            ], pages: 2, receivesInPlace)
        #expect(count == 7_560)
    }

    /// Both regions leave, while both are received: nothing is missing then.
    @Test(arguments: kinds.filter { $0[1] }) func allRegionsInEveryOrder(_ receivesInPlace: [Bool]) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 0, 2), .push, lane: 1), .arrived(lane: 1)],
                [.place(Self.range(1, 0, 2), .push, lane: 2), .arrived(lane: 2)],
                [.takeOut(0), .takeOut(1)],
                [.fault(0, 0), .fault(1, 0)],
                [.retry],
            ], pages: 2, receivesInPlace)
        #expect(count == 22_680)
    }
}
