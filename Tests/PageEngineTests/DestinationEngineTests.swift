import PageCore
import PageEngine
import PageWire
import Testing

/// What a destination refuses from its peer, and what it does when its sink has no room.
@Suite struct DestinationEngineTests {
    static func layout() throws -> RegionLayout {
        try RegionLayout([
            RegionDescription(name: "low", lengthBytes: 4 << 12, pageSize: .fourKiB),
            RegionDescription(name: "huge", lengthBytes: 2 << 21, pageSize: .twoMiB),
        ])
    }

    static func destination(lanes: Int = 2) throws -> CheckedDestination {
        CheckedDestination(try layout(), receivesInPlace: [true, true], laneCount: lanes)
    }

    static func pages(_ region: RegionIndex, _ first: Int, _ count: Int, bytes: Int) -> FrameHeader {
        FrameHeader(
            .pages, reason: .push, range: PageRange(region: region, first: first, count: count), payloadBytes: bytes)
    }

    @Test(arguments: [
        (pages(2, 0, 1, bytes: 4096), EngineViolation.outsideRegions(PageRange(region: 2, first: 0, count: 1))),
        (pages(.max, 0, 1, bytes: 4096), .outsideRegions(PageRange(region: .max, first: 0, count: 1))),
        (pages(0, 0, 0, bytes: 0), .outsideRegions(PageRange(region: 0, first: 0, count: 0))),
        (pages(0, 4, 1, bytes: 4096), .outsideRegions(PageRange(region: 0, first: 4, count: 1))),
        (pages(0, 3, 2, bytes: 8192), .outsideRegions(PageRange(region: 0, first: 3, count: 2))),
        (pages(0, 1 << 56, 1, bytes: 4096), .outsideRegions(PageRange(region: 0, first: 1 << 56, count: 1))),
        (pages(0, 0, Int(UInt32.max), bytes: 4096), .outsideRegions(PageRange(region: 0, first: 0, count: Int(UInt32.max)))),
        (pages(0, 0, 1, bytes: 4095), .payloadLength(PageRange(region: 0, first: 0, count: 1), bytes: 4095)),
        (pages(0, 0, 1, bytes: 8192), .payloadLength(PageRange(region: 0, first: 0, count: 1), bytes: 8192)),
        (pages(0, 0, 1, bytes: 0), .payloadLength(PageRange(region: 0, first: 0, count: 1), bytes: 0)),
        (pages(1, 0, 1, bytes: 4096), .payloadLength(PageRange(region: 1, first: 0, count: 1), bytes: 4096)),
    ])
    func lyingHeadersAreRefused(header: FrameHeader, violation: EngineViolation) throws {
        var destination = try Self.destination()
        #expect(throws: violation) { _ = try destination.engine.place(header, lane: 0) }
        // Nothing was begun: the lane can still be placed on, and nothing counts as here.
        #expect(destination.engine.missingPages == 6)
        try destination.place(PageRange(region: 0, first: 0, count: 1), reason: .demand, lane: 0)
        destination.arrived(lane: 0)
        #expect(destination.model.faults == [])
    }

    @Test(arguments: [
        PageRange(region: 2, first: 0, count: 1), PageRange(region: 0, first: 4, count: 1), PageRange(region: 0, first: 0, count: 5),
    ])
    func lyingZeroRangesAreRefused(range: PageRange) throws {
        var destination = try Self.destination()
        #expect(throws: EngineViolation.outsideRegions(range)) { try destination.engine.zero(range, &destination.model) }
        #expect(destination.engine.missingPages == 6)
    }

    @Test func onePageOnTwoLanesAtOnceIsRefused() throws {
        var destination = try Self.destination()
        let range = PageRange(region: 0, first: 0, count: 2)
        try destination.place(range, reason: .push, lane: 1)
        let second = PageRange(region: 0, first: 1, count: 2)
        #expect(throws: EngineViolation.receivedTwice(second)) { try destination.place(second, reason: .demand, lane: 0) }
        #expect(throws: EngineViolation.receivedTwice(second)) { try destination.engine.zero(second, &destination.model) }
        // The same numbers in another region are other pages.
        try destination.place(PageRange(region: 1, first: 0, count: 1), reason: .demand, lane: 0)
    }

    @Test func pagesThatComeAgainAreDroppedAndChangeNothing() throws {
        var destination = try Self.destination()
        let range = PageRange(region: 0, first: 0, count: 2)
        try destination.place(range, reason: .push, lane: 1)
        destination.arrived(lane: 1)
        let header = FrameHeader(.pages, reason: .push, range: range, payloadBytes: 8192)
        #expect(try destination.engine.place(header, lane: 1) == .discard)
        destination.arrived(lane: 1)
        #expect(destination.engine.counts.push == 2)
        #expect(destination.model.faults == [])
    }

    @Test func anEndWithPagesMissingIsRefused() throws {
        var destination = try Self.destination()
        try destination.zero(PageRange(region: 0, first: 0, count: 4))
        try destination.ended(lane: 0)
        #expect(throws: EngineViolation.endedWithPagesMissing(count: 2)) { try destination.ended(lane: 1) }
    }

    @Test func everyViolationSaysWhatIsWrongInOneLine() {
        let range = PageRange(region: 1, first: 2, count: 3)
        let all: [EngineViolation] = [
            .outsideRegions(range), .payloadLength(range, bytes: 5), .receivedTwice(range), .endedWithPagesMissing(count: 7),
            .creditOverflow,
        ]
        for violation in all {
            #expect(violation.description.contains("hostile"))
            #expect(!violation.description.contains("\n"))
        }
    }

    /// Requests that find no room are asked later, each once, whatever happens to their pages meanwhile.
    @Test func refusedRequestsAreAskedOnceWhenThereIsRoom() throws {
        var destination = try Self.destination()
        destination.fault(0, 0)
        destination.model.acceptsRequests = false
        destination.fault(0, 1)
        destination.fault(0, 2)
        destination.fault(1, 1)
        destination.retry()
        #expect(destination.model.requests == [1, 0, 0, 0, 0, 0])
        try destination.zero(PageRange(region: 0, first: 1, count: 1))
        destination.model.acceptsRequests = true
        destination.retry()
        destination.retry()
        #expect(destination.model.requests == [1, 0, 1, 0, 0, 1])
        #expect(destination.engine.faultCount == 4)
        #expect(destination.engine.waitingPages == 3)
    }

    @Test func aLostLinkLetsEverythingDemandedBeAskedAgain() throws {
        var destination = try Self.destination()
        destination.fault(0, 0)
        destination.fault(0, 3)
        try destination.zero(PageRange(region: 0, first: 3, count: 1))
        destination.engine.linkLost(&destination.model)
        destination.engine.linkRestored(laneCount: 1, &destination.model)
        #expect(destination.model.requests == [2, 0, 0, 1, 0, 0])
    }

    /// A report that found no room is made later, in runs, and before the end is reported.
    @Test func refusedRemovalsAreToldBeforeTheEnd() throws {
        var destination = try Self.destination()
        destination.model.acceptsRemoved = false
        for page in [2, 0, 1] { destination.removed(PageRange(region: 0, first: page, count: 1)) }
        destination.removed(PageRange(region: 0, first: 3, count: 1))
        destination.removed(PageRange(region: 1, first: 0, count: 2))
        destination.retry()
        #expect(destination.engine.isComplete == true)
        #expect(destination.model.reports == 0)
        destination.model.acceptsRemoved = true
        destination.retry()
        #expect(destination.model.removedReports == [PageRange(region: 0, first: 0, count: 4), PageRange(region: 1, first: 0, count: 2)])
        #expect(destination.model.reports == 1)
        destination.retry()
        #expect(destination.model.reports == 1)
        #expect(destination.model.faults == [])
    }

    /// A flood of removals does not take the room of a demand: requests that were refused go first.
    @Test func demandsGoBeforeRemovals() throws {
        var destination = try Self.destination()
        destination.model.room = 0
        destination.fault(0, 3)
        destination.model.room = 1
        for page in 0..<3 { destination.removed(PageRange(region: 0, first: page, count: 1)) }
        destination.retry()
        #expect(destination.model.requests[3] == 1)
        #expect(destination.model.removedReports == [])
        destination.model.room = 2
        destination.retry()
        #expect(destination.model.removedReports == [PageRange(region: 0, first: 0, count: 3)])
        #expect(destination.model.faults == [])
    }

    @Test func theEndIsReportedWhenThereIsRoomAndOnce() throws {
        var destination = try Self.destination()
        destination.model.acceptsReport = false
        try destination.zero(PageRange(region: 0, first: 0, count: 4))
        destination.retry()
        try destination.zero(PageRange(region: 1, first: 0, count: 2))
        destination.retry()
        #expect(destination.model.reports == 0)
        destination.model.acceptsReport = true
        destination.retry()
        destination.retry()
        destination.removed(PageRange(region: 1, first: 0, count: 2))
        destination.retry()
        #expect(destination.model.reports == 1)
        #expect(destination.model.faults == [])
    }

    /// Demanded pages and windows are received in place all the same; so is a push over pages that are to be here unseen.
    @Test func onlyPushedPagesAreCopied() throws {
        let layout = try RegionLayout([
            RegionDescription(name: "copied", lengthBytes: 64 << 12, pageSize: .fourKiB),
            RegionDescription(name: "huge", lengthBytes: 2 << 21, pageSize: .twoMiB),
        ])
        var configuration = DestinationEngine.Configuration(receivesInPlace: [true, true], laneCount: 1)
        configuration.copiesPush = [true, false]
        configuration.window = .adaptive(mostBytes: 64 << 10)
        var engine = DestinationEngine(layout: layout, configuration: configuration)
        var model = DestinationModel(layout)
        func place(_ range: PageRange, _ reason: PageReason) throws -> Placement {
            let header = FrameHeader(.pages, reason: reason, range: range, payloadBytes: layout.byteCount(range))
            defer { engine.laneLost(lane: 0, &model) }
            return try engine.place(header, lane: 0)
        }
        let pages = PageRange(region: 0, first: 8, count: 4)
        let huge = PageRange(region: 1, first: 0, count: 1)
        #expect(try place(pages, .demand) == .direct(pages))
        #expect(try place(pages, .window) == .direct(pages))
        #expect(try place(pages, .push) == .slab)
        #expect(try place(huge, .push) == .direct(huge))
        // Two faults in a row make a window, whose last page is held.
        for page in [8, 9] {
            model.isWaiting[page] = true
            engine.fault(0, page, &model)
        }
        var inPlace: [PageIndex] = []
        for page in 10..<64 {
            if try place(PageRange(region: 0, first: page, count: 1), .push) != .slab { inPlace.append(page) }
        }
        #expect(!inPlace.isEmpty && inPlace.count < 8)
        let around = PageRange(region: 0, first: try #require(inPlace.first) - 1, count: 2)
        #expect(try place(around, .push) == .direct(around))
    }

    /// Credit is granted at once, returned as pushed bytes arrive, and never lost to a full queue or a dropped frame.
    @Test func creditComesBackForEveryPushedByte() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 64 << 12, pageSize: .fourKiB)])
        var configuration = DestinationEngine.Configuration(receivesInPlace: [true], laneCount: 2)
        configuration.creditBytes = 16 << 12
        var engine = DestinationEngine(layout: layout, configuration: configuration)
        var model = DestinationModel(layout)
        model.acceptsCredit = false
        engine.retry(&model)
        model.acceptsCredit = true
        engine.retry(&model)
        #expect(model.granted == 16 << 12)
        for page in 0..<12 {
            let range = PageRange(region: 0, first: page, count: 1)
            let header = FrameHeader(.pages, reason: page < 8 ? .push : .demand, range: range, payloadBytes: 4096)
            if page == 3 {
                model.isRemoved[page] = true
                engine.removed(range, &model)
            }
            _ = try engine.place(header, lane: 1)
            model.bytes[page] = .whole
            model.isArrived[page] = true
            engine.arrived(header, lane: 1, &model)
            engine.retry(&model)
        }
        // Eight pages were pushed, in quarters of the window; the demanded ones cost no credit.
        #expect(model.granted == (16 + 8) << 12)
    }

    /// A window that shrinks takes nothing back: less is granted until what was granted before has come.
    @Test func creditFollowsItsWindow() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 64 << 12, pageSize: .fourKiB)])
        var configuration = DestinationEngine.Configuration(receivesInPlace: [true], laneCount: 2)
        configuration.creditBytes = 16 << 12
        var engine = DestinationEngine(layout: layout, configuration: configuration)
        var model = DestinationModel(layout)
        engine.retry(&model)
        #expect(model.granted == 16 << 12)
        engine.creditWindowBytes = 4 << 12
        var received = 0
        func receive(_ engine: inout DestinationEngine, _ model: inout DestinationModel) throws {
            let range = PageRange(region: 0, first: received, count: 1)
            let header = FrameHeader(.pages, reason: .push, range: range, payloadBytes: 4096)
            _ = try engine.place(header, lane: 1)
            (model.bytes[received], model.isArrived[received]) = (.whole, true)
            engine.arrived(header, lane: 1, &model)
            engine.retry(&model)
            received += 1
        }
        for _ in 0..<12 { try receive(&engine, &model) }
        // Four pages are still on the way: exactly the new window.
        #expect(model.granted == 16 << 12)
        try receive(&engine, &model)
        #expect(model.granted == 17 << 12)
        engine.creditWindowBytes = 8 << 12
        engine.retry(&model)
        #expect(model.granted == 21 << 12)
        engine.creditWindowBytes = 1
        #expect(engine.creditWindowBytes == engine.leastCreditBytes)
    }

    /// A window smaller than two pages would leave the push without credit for good.
    @Test func creditIsEnoughForTwoOfTheLargestPages() throws {
        let layout = try Self.layout()
        var configuration = DestinationEngine.Configuration(receivesInPlace: [true, true], laneCount: 1)
        configuration.creditBytes = 1
        var engine = DestinationEngine(layout: layout, configuration: configuration)
        var model = DestinationModel(layout)
        engine.retry(&model)
        #expect(model.granted == 4 << 20)
    }
}
