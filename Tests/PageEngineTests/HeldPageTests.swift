import PageCore
import PageWire
import Testing

@testable import PageEngine

/// Pages that are here and stay invisible until they are touched.
@Suite struct HeldPageTests {
    /// Records what the engine wishes.
    private struct Sink: DestinationSink {
        var requests: [(window: PageRange, demanded: PageIndex, stride: Int)] = []
        var prefetches: [(window: PageRange, stride: Int)] = []
        var visible: Set<PageIndex> = []
        var acceptsPrefetch = true

        mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool {
            requests.append((window, demanded, stride))
            return true
        }
        mutating func prefetch(_ window: PageRange, stride: Int) -> Bool {
            if acceptsPrefetch { prefetches.append((window, stride)) }
            return acceptsPrefetch
        }
        mutating func install(_ range: PageRange) { visible.formUnion(range.first..<range.end) }
        mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) { visible.formUnion(range.first..<range.end) }
        mutating func resolve(_ region: RegionIndex, _ page: PageIndex) { visible.insert(page) }
        mutating func erase(_ range: PageRange) {}
        mutating func record(_ range: PageRange) {}
        mutating func grantCredit(bytes: Int) -> Bool { true }
        mutating func reportRemoved(_ range: PageRange) -> Bool { true }
        mutating func reportAllResident() -> Bool { true }
    }

    private static func engine(pages: Int, receivesInPlace: Bool = true) throws -> DestinationEngine {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
        var configuration = DestinationEngine.Configuration(receivesInPlace: [receivesInPlace], laneCount: 2)
        configuration.window = .adaptive()
        configuration.creditBytes = 0
        return DestinationEngine(layout: layout, configuration: configuration)
    }

    private static func arrive(_ pages: Range<Int>, _ engine: inout DestinationEngine, _ sink: inout Sink) throws {
        let header = FrameHeader(
            .pages, reason: .window, range: PageRange(region: 0, first: pages.lowerBound, count: pages.count),
            payloadBytes: pages.count << 12)
        _ = try engine.place(header, lane: 0)
        engine.arrived(header, lane: 0, &sink)
    }

    /// Faults on pages 0, 1, 2 make a stream; its first window comes.
    private static func stream(_ engine: inout DestinationEngine, _ sink: inout Sink) throws -> Range<Int> {
        for page in 0..<3 {
            engine.fault(0, page, &sink)
            try arrive(page..<(page + 1), &engine, &sink)
        }
        let last = try #require(sink.requests.last)
        #expect(last.stride == 1 && last.window.count > 4)
        return 3..<last.window.end
    }

    @Test func onePageOfAWindowIsHeldAndItsTouchAsksForMore() throws {
        var engine = try Self.engine(pages: 1024)
        var sink = Sink()
        let window = try Self.stream(&engine, &sink)
        try Self.arrive(window, &engine, &sink)
        let held = Set(window).subtracting(sink.visible)
        #expect(held.count >= 1 && held.count <= 2, "\(held)")
        #expect(engine.missingPages == 1024 - window.upperBound)
        let misses = engine.missCount
        for page in held.sorted() { engine.fault(0, page, &sink) }
        #expect(Set(window).isSubset(of: sink.visible))
        #expect(engine.missCount == misses, "a held page is answered without the wire")
        #expect(engine.faultCount == 3 + held.count)
        let prefetch = try #require(sink.prefetches.first)
        #expect(prefetch.window.first == window.upperBound && prefetch.stride == 1)
    }

    /// A second thread waits for a page of the window before it comes: whichever it is, it is made visible.
    @Test func aPageSomebodyWaitsForIsNeverHeld() throws {
        for page in 3..<40 {
            var engine = try Self.engine(pages: 1024)
            var sink = Sink()
            let window = try Self.stream(&engine, &sink)
            engine.fault(0, page, &sink)
            try Self.arrive(window, &engine, &sink)
            if page >= window.upperBound { try Self.arrive(page..<(page + 1), &engine, &sink) }
            #expect(sink.visible.contains(page), "page \(page) is here, and its thread waits for ever")
            #expect(engine.waitingPages == 0)
            // The same with the order the other way round: it waits already when the stream asks for it.
            var other = try Self.engine(pages: 1024)
            var otherSink = Sink()
            if page > 8 { other.fault(0, page, &otherSink) }
            let later = try Self.stream(&other, &otherSink)
            try Self.arrive(later.lowerBound..<max(later.upperBound, page + 1), &other, &otherSink)
            if page > 8 { #expect(otherSink.visible.contains(page)) }
        }
    }

    @Test func memoryWithoutASecondMappingHoldsNothing() throws {
        var engine = try Self.engine(pages: 1024, receivesInPlace: false)
        var sink = Sink()
        let window = try Self.stream(&engine, &sink)
        try Self.arrive(window, &engine, &sink)
        #expect(Set(window).isSubset(of: sink.visible))
    }

    @Test func aPrefetchWithoutRoomIsAskedForLater() throws {
        var engine = try Self.engine(pages: 1024)
        var sink = Sink()
        let window = try Self.stream(&engine, &sink)
        try Self.arrive(window, &engine, &sink)
        sink.acceptsPrefetch = false
        for page in Set(window).subtracting(sink.visible).sorted() { engine.fault(0, page, &sink) }
        engine.retry(&sink)
        #expect(sink.prefetches.isEmpty)
        sink.acceptsPrefetch = true
        engine.retry(&sink)
        #expect(sink.prefetches.count == 1)
        engine.retry(&sink)
        #expect(sink.prefetches.count == 1, "once")
    }

    // MARK: Replay

    @Test func aReplayAsksForEveryPageOnceAndFewAtATime() throws {
        var engine = try Self.engine(pages: 4096)
        var sink = Sink()
        engine.replay([100..<130, 7..<8, 90..<100, 2000..<3000, 100..<110, 4095..<4096])
        var asked: [Int] = []
        var rounds = 0
        while rounds < 1_000 {
            engine.retry(&sink)
            if sink.prefetches.isEmpty { break }
            let bytes = sink.prefetches.reduce(0) { $0 + $1.window.count << 12 }
            #expect(bytes <= 320 << 10 && sink.prefetches.count <= 56)
            for prefetch in sink.prefetches {
                #expect(prefetch.stride == 0)
                let pages = prefetch.window.first..<prefetch.window.end
                asked += pages
                for page in pages where !engine.isSettled(0, page) { try Self.arrive(page..<(page + 1), &engine, &sink) }
            }
            sink.prefetches = []
            rounds += 1
        }
        let wanted = Set(Array(7..<8) + Array(90..<130) + Array(2000..<3000) + [4095])
        #expect(Set(asked) == wanted && asked.count == wanted.count)
        #expect(wanted.isSubset(of: sink.visible))
    }

    /// Within the same bounds as ever; the demand is asked for at once, and answered first by the source.
    @Test func aReplayGoesOnWhileAThreadWaits() throws {
        var engine = try Self.engine(pages: 4096)
        var sink = Sink()
        engine.replay([100..<1000])
        engine.fault(0, 5, &sink)
        #expect(sink.requests.count == 1 && sink.prefetches.isEmpty)
        engine.retry(&sink)
        let first = sink.prefetches.count
        #expect(first > 0)
        // What is on the way is bounded, whoever waits.
        engine.fault(0, 6, &sink)
        engine.retry(&sink)
        #expect(sink.prefetches.count == first && sink.requests.count == 2)
    }

    /// A page of the trace is asked for alone; any other has the window that its faults suggest.
    @Test func aFaultOnAReplayedPageBringsNoWindow() throws {
        var engine = try Self.engine(pages: 4096)
        var sink = Sink()
        engine.replay([100..<1000])
        for page in 500..<520 { engine.fault(0, page, &sink) }
        #expect(sink.requests.allSatisfy { $0.window.count == 1 } && sink.requests.map(\.demanded) == Array(500..<520))
        sink.requests = []
        for page in 2000..<2003 { engine.fault(0, page, &sink) }
        #expect(sink.requests.contains { $0.window.count > 1 })
    }

    @Test func afterAReplayWindowsAreAsEver() throws {
        var engine = try Self.engine(pages: 4096)
        var sink = Sink()
        engine.replay([100..<110])
        engine.retry(&sink)
        for page in 200..<203 { engine.fault(0, page, &sink) }
        #expect(sink.requests.contains { $0.window.count > 1 })
    }
}
