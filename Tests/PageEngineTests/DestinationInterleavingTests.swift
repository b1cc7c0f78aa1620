import PageCore
import PageEngine
import PageWire
import Testing

/// Every order of small sets of events, against an independent model of what the invariants allow.
@Suite struct DestinationInterleavingTests {
    enum Step {
        case fault(Int)
        case place(PageRange, PageReason, lane: Int)
        case arrived(lane: Int)
        case lost(lane: Int)
        case zero(PageRange)
        case removed(PageRange)
        case retry
    }

    static func range(_ first: Int, _ count: Int = 1, region: RegionIndex = 0) -> PageRange {
        PageRange(region: region, first: first, count: count)
    }

    static func layout(pages: Int) throws -> RegionLayout {
        try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
    }

    /// Where page bytes are received.
    enum Way: CaseIterable { case inPlace, slab, pushCopied }

    /// Runs all orders, and at the end of each checks that everybody was answered and the end was told once.
    ///
    /// - Returns: how many orders there are.
    func explore(_ scripts: [[Step]], pages: Int, way: Way = .inPlace, isComplete: Bool = true, lanes: Int = 3) throws -> Int {
        let layout = try Self.layout(pages: pages)
        return try forEveryInterleaving(of: scripts) { order in
            var destination = CheckedDestination(
                layout, receivesInPlace: [way != .slab], copiesPush: [way == .pushCopied], laneCount: lanes)
            for step in order { try perform(step, &destination) }
            destination.retry()
            destination.retry()
            let waiting = destination.model.isWaiting.count { $0 }
            if isComplete {
                if destination.model.reports != 1 { destination.model.faults.append("\(destination.model.reports) reports of the end") }
                if waiting > 0 { destination.model.faults.append("\(waiting) threads wait for good") }
                for lane in 0..<lanes { try destination.ended(lane: lane) }
            } else {
                if destination.model.reports > 0 { destination.model.faults.append("the end was told too early") }
                #expect(throws: EngineViolation.endedWithPagesMissing(count: destination.engine.missingPages)) {
                    for lane in 0..<lanes { try destination.ended(lane: lane) }
                }
            }
            if waiting != destination.engine.waitingPages { destination.model.faults.append("the waiting pages are miscounted") }
            if !destination.model.faults.isEmpty {
                Issue.record("\(destination.model.faults[0]), after \(order)")
                throw Stop()
            }
        }
    }

    /// One failing order is enough.
    struct Stop: Error {}

    private func perform(_ step: Step, _ destination: inout CheckedDestination) throws {
        switch step {
        case .fault(let page): destination.fault(0, page)
        case .place(let range, let reason, let lane): try destination.place(range, reason: reason, lane: lane)
        case .arrived(let lane): destination.arrived(lane: lane)
        case .lost(let lane): destination.lost(lane: lane)
        case .zero(let range): try destination.zero(range)
        case .removed(let range): destination.removed(range)
        case .retry: destination.retry()
        }
    }

    @Test(arguments: Way.allCases) func demandPushAndZeroInEveryOrder(way: Way) throws {
        let count = try explore(
            [
                [.place(Self.range(0), .demand, lane: 0), .arrived(lane: 0)],
                [.place(Self.range(1, 2), .push, lane: 1), .arrived(lane: 1)],
                [.zero(Self.range(3))],
                [.fault(0), .fault(0), .fault(2)],
                [.fault(3)],
            ], pages: 4, way: way)
        #expect(count == 15_120)
    }

    @Test(arguments: Way.allCases) func pagesGivenUpOnTheirWayInEveryOrder(way: Way) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 3), .push, lane: 1), .arrived(lane: 1)],
                [.place(Self.range(3), .demand, lane: 0), .arrived(lane: 0)],
                [.removed(Self.range(1, 1)), .fault(1)],
                [.fault(1), .fault(2)],
                [.removed(Self.range(3))],
            ], pages: 4, way: way)
        #expect(count == 22_680)
    }

    /// The whole extent is given up in two steps, while threads wait for it: the end may not be told while a lane
    /// still writes there.
    @Test(arguments: Way.allCases) func theLastExtentGivenUpInEveryOrder(way: Way) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 2), .push, lane: 1), .arrived(lane: 1)],
                [.zero(Self.range(2))],
                [.removed(Self.range(0)), .fault(0), .removed(Self.range(1))],
                [.retry, .retry],
                [.fault(1)],
            ], pages: 3, way: way)
        #expect(count == 15_120)
    }

    @Test(arguments: Way.allCases) func twoRemovalsAcrossExtentsAndZerosInEveryOrder(way: Way) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 2), .window, lane: 0), .arrived(lane: 0)],
                [.place(Self.range(2, 2), .push, lane: 2), .arrived(lane: 2)],
                [.removed(Self.range(1, 2)), .removed(Self.range(0, 2))],
                [.fault(2), .fault(1)],
                [.retry],
            ], pages: 4, way: way)
        #expect(count == 22_680)
    }

    /// A lane breaks at any moment; what it was receiving never shows, what others brought does.
    @Test(arguments: Way.allCases) func aLaneLostInEveryOrder(way: Way) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 2), .push, lane: 1), .lost(lane: 1)],
                [.place(Self.range(2), .demand, lane: 0), .arrived(lane: 0)],
                [.removed(Self.range(1)), .fault(1)],
                [.fault(0), .fault(2)],
                [.retry],
            ], pages: 4, way: way, isComplete: false)
        #expect(count == 22_680)
    }

    /// A lane breaks over an extent that the guest gives up: nothing is missing then.
    @Test(arguments: Way.allCases) func aLaneLostOverPagesGivenUpInEveryOrder(way: Way) throws {
        let count = try explore(
            [
                [.place(Self.range(0, 2), .push, lane: 1), .lost(lane: 1)],
                [.zero(Self.range(2))],
                [.removed(Self.range(0)), .fault(0), .removed(Self.range(1)), .fault(1)],
                [.fault(2), .retry],
            ], pages: 3, way: way)
        #expect(count == 3_780)
    }
}
