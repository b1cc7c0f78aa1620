import PageCore
import PageEngine
import PageWire
import Testing

@Suite struct SourceEngineTests {
    static func layout(pages: Int) throws -> RegionLayout {
        try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
    }

    static func range(_ first: Int, _ count: Int = 1) -> PageRange { PageRange(region: 0, first: first, count: count) }

    enum Step {
        case start, urgent, window, bulk
        case request(Int, Range<Int>)
        case credit(Int)
        case removed(Int, Int)
    }

    func explore(_ contents: [SourceModel.Content], _ scripts: [[Step]]) throws -> Int {
        let layout = try Self.layout(pages: contents.count)
        var configuration = SourceEngine.Configuration()
        configuration.extentBytes = 2 << 12
        configuration.windowFrameBytes = 2 << 12
        return try forEveryInterleaving(of: scripts) { order in
            var source = SourceModel(layout, contents: contents, configuration: configuration)
            for step in order { try perform(step, &source) }
            try source.drain()
            if !source.faults.isEmpty {
                Issue.record("\(source.faults[0]), after \(order)")
                throw DestinationInterleavingTests.Stop()
            }
        }
    }

    private func perform(_ step: Step, _ source: inout SourceModel) throws {
        switch step {
        case .start: source.start()
        case .urgent: source.pullUrgent(includingWindows: false)
        case .window: source.pullUrgent(includingWindows: true)
        case .bulk: source.pullBulk()
        case .request(let page, let window): try source.request(page, window: window)
        case .credit(let bytes): try source.grant(bytes)
        case .removed(let first, let count): try source.removed(Self.range(first, count))
        }
    }

    @Test func everyOrderOfRequestsCreditAndRemovals() throws {
        let count = try explore(
            [.data, .data, .zero, .data],
            [
                [.start],
                [.request(1, 0..<4), .request(3, 2..<4), .request(1, 0..<4)],
                [.credit(4096), .credit(4096)],
                [.bulk, .urgent, .bulk],
                [.removed(0, 2)],
            ])
        #expect(count == 50_400)
    }

    @Test func everyOrderOverHoles() throws {
        let count = try explore(
            [.hole, .hole, .data, .hole],
            [
                [.start, .bulk, .window, .bulk],
                [.request(1, 0..<4), .request(2, 0..<4)],
                [.credit(8192)],
                [.removed(1, 2)],
            ])
        #expect(count == 840)
    }

    /// Long random sessions over all kinds of content, with queues so short that they overflow.
    @Test(arguments: 0..<200) func randomSessionsSendEveryPageOnce(seed: Int) throws {
        var random = SeededRandom(seed: UInt64(seed))
        let layout = try RegionLayout([
            RegionDescription(name: "low", lengthBytes: (1 + random.next(below: 90)) << 12, pageSize: .fourKiB),
            RegionDescription(name: "huge", lengthBytes: (1 + random.next(below: 5)) << 21, pageSize: .twoMiB),
            RegionDescription(name: "high", lengthBytes: (1 + random.next(below: 90)) << 12, pageSize: .fourKiB),
        ])
        let contents: [SourceModel.Content] = (0..<layout.totalPages).map { _ in
            let dice = random.next(below: 10)
            return dice < 6 ? .data : dice < 8 ? .zero : .hole
        }
        var configuration = SourceEngine.Configuration()
        configuration.extentBytes = 1 << (10 + random.next(below: 10))
        configuration.windowFrameBytes = 1 << (10 + random.next(below: 8))
        configuration.demandQueueLength = 1 + random.next(below: 4)
        configuration.windowQueueLength = 1 + random.next(below: 4)
        let window = WindowPolicy(windowBytes: 1 << (12 + random.next(below: 6)))
        var source = SourceModel(layout, contents: contents, configuration: configuration, orderMatters: false)
        for step in 0..<400 {
            if step == 20 { source.start() }
            let page = random.next(below: layout.totalPages)
            let region = layout.region(ofSessionPage: page)
            let index = layout.range(region, sessionPages: page..<(page + 1)).first
            switch random.next(below: 12) {
            case 0...2: try source.request(page, window: layout.sessionPages(window.window(around: index, in: region, of: layout)))
            case 3: try source.removed(PageRange(region: region, first: index, count: 1))
            case 4, 5: try source.grant(random.next(below: 64 << 10))
            case 6...8: source.pullUrgent(includingWindows: random.chance(percent: 50))
            default: source.pullBulk()
            }
        }
        try source.drain()
        #expect(source.faults == [])
    }

    @Test func thePushGoesOnBehindTheLastWindow() throws {
        var configuration = SourceEngine.Configuration()
        configuration.extentBytes = 2 << 12
        var source = SourceModel(try Self.layout(pages: 16), contents: Array(repeating: .data, count: 16), configuration: configuration)
        source.start()
        try source.grant(16 << 12)
        source.pullBulk()
        try source.request(9, window: 8..<12)
        source.pullUrgent(includingWindows: false)
        source.pullBulk()
        source.pullUrgent(includingWindows: true)
        source.pullBulk()
        source.pullBulk()
        source.pullUrgent(includingWindows: true)
        #expect(
            source.log == [
                .pages(Self.range(0, 2), .push), .pages(Self.range(9), .demand), .pages(Self.range(12, 2), .push),
                .pages(Self.range(8), .window), .pages(Self.range(14, 2), .push), .pages(Self.range(2, 2), .push),
                .pages(Self.range(10, 2), .window),
            ])
        #expect(source.faults == [])
    }

    /// The end of the memory is the end of the circle: what the last window skipped comes then.
    @Test func thePushComesRoundToWhatWasSkipped() throws {
        var source = SourceModel(
            try Self.layout(pages: 4), contents: Array(repeating: .data, count: 4), configuration: SourceEngine.Configuration())
        source.start()
        try source.grant(4 << 12)
        try source.request(3, window: 3..<4)
        source.pullUrgent(includingWindows: true)
        source.pullBulk()
        #expect(source.log == [.pages(Self.range(3), .demand), .pages(Self.range(0, 3), .push)])
    }

    @Test func nothingLeavesBeforeTheMemoryIsFinal() throws {
        var source = SourceModel(
            try Self.layout(pages: 4), contents: [.data, .zero, .hole, .data], configuration: SourceEngine.Configuration())
        try source.grant(1 << 20)
        try source.request(0, window: 0..<4)
        #expect(source.pullUrgent(includingWindows: true) == false)
        #expect(source.pullBulk() == false)
        try source.drain()
        #expect(source.faults == [])
        #expect(source.log.first == .pages(Self.range(0), .demand))
    }

    /// Demands that found the queue full have their turn even when the queue never empties.
    @Test func demandsWithoutOrderAreNotStarved() throws {
        var configuration = SourceEngine.Configuration()
        configuration.demandQueueLength = 2
        var source = SourceModel(
            try Self.layout(pages: 64), contents: Array(repeating: .data, count: 64), configuration: configuration, orderMatters: false)
        source.start()
        for page in 0..<6 { try source.request(page, window: page..<(page + 1)) }
        for page in 6..<30 {
            source.pullUrgent(includingWindows: false)
            try source.request(page, window: page..<(page + 1))
            try source.request(page + 30, window: (page + 30)..<(page + 31))
        }
        for page in 0..<6 { #expect(source.waiting.contains(page) == false) }
        try source.drain()
        #expect(source.faults == [])
    }

    /// A frame never exceeds what the wire allows, whatever was configured.
    @Test func framesStayWithinTheWiresLimits() throws {
        var configuration = SourceEngine.Configuration()
        configuration.extentBytes = 64 << 20
        configuration.windowFrameBytes = 64 << 20
        var source = SourceModel(
            try Self.layout(pages: 4096), contents: Array(repeating: .data, count: 4096), configuration: configuration)
        try source.request(0, window: 0..<2048)
        try source.grant(16 << 20)
        try source.drain()
        for command in source.log {
            guard case .pages(let range, _) = command else { continue }
            #expect(range.count << 12 <= FrameLimits.mostPageBytes)
        }
        #expect(source.faults == [])
    }

    @Test(arguments: [
        (PageRange(region: 1, first: 0, count: 1), 0), (PageRange(region: 0, first: 3, count: 2), 3),
        (PageRange(region: 0, first: 0, count: 2), 2), (PageRange(region: 0, first: 1, count: 0), 1),
        (PageRange(region: 0, first: 1 << 56, count: 1), 1 << 56),
    ])
    func lyingRequestsAreRefused(window: PageRange, demanded: Int) throws {
        var engine = SourceEngine(layout: try Self.layout(pages: 4))
        #expect(throws: EngineViolation.outsideRegions(window)) { try engine.request(window: window, demanded: demanded) }
        #expect(engine.requestCount == 0)
    }

    @Test func lyingRemovalsAndCreditAreRefused() throws {
        var engine = SourceEngine(layout: try Self.layout(pages: 4))
        #expect(throws: EngineViolation.outsideRegions(Self.range(4))) { try engine.removed(Self.range(4)) }
        #expect(throws: EngineViolation.outsideRegions(PageRange(region: 9, first: 0, count: 1))) {
            try engine.removed(PageRange(region: 9, first: 0, count: 1))
        }
        #expect(throws: EngineViolation.creditOverflow) { try engine.credit(bytes: .max) }
        try engine.credit(bytes: UInt64(RegionLayout.mostBytes))
        try engine.credit(bytes: UInt64(RegionLayout.mostBytes))
        #expect(throws: EngineViolation.creditOverflow) { for _ in 0..<4 { try engine.credit(bytes: UInt64(RegionLayout.mostBytes)) } }
        #expect(engine.unsentPages == 4)
    }
}
