import Benchmark
import HostMemory
import PageCore
import PageEngine
import PageWire

// What every page costs on the processor, each step by itself. `make bench-micro` runs them, and checks them against
// Thresholds/: 90th percentiles of another machine, so only a step that takes four times as long is an error. Allocations are not
// counted here (the package's counts read 0 whatever is done, without its interposers): `pageferry bench allocations` does.
// The names are those of files there, so they have no spaces.

/// Memory in which every page holds data.
struct AllData: ContentClassifier {
    func classify(_ range: PageRange, mostScanned: Int) -> ContentRun { ContentRun(.data, count: min(mostScanned, range.count)) }
    func firstHole(in range: PageRange) -> PageRange? { nil }
}

/// A destination whose wishes are always granted and never carried out.
struct GrantingSink: DestinationSink {
    var installs = 0
    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool { true }
    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool { true }
    mutating func record(_ range: PageRange) {}
    mutating func install(_ range: PageRange) { installs += 1 }
    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) { installs += 1 }
    mutating func resolve(_ region: RegionIndex, _ page: PageIndex) {}
    mutating func erase(_ range: PageRange) {}
    mutating func grantCredit(bytes: Int) -> Bool { true }
    mutating func reportRemoved(_ range: PageRange) -> Bool { true }
    mutating func reportAllResident() -> Bool { true }
}

let pages = 1 << 18
let layout = try! RegionLayout([RegionDescription(name: "ram", lengthBytes: pages * 4096, pageSize: .fourKiB)])

let benchmarks: @Sendable () -> Void = {
    Benchmark.defaultConfiguration = .init(
        metrics: [.wallClock], scalingFactor: .kilo, thresholds: [.wallClock: BenchmarkThresholds(relative: [.p90: 300])])

    Benchmark("header-encode-decode") { benchmark in
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        let header = FrameHeader(.pages, reason: .push, range: PageRange(region: 0, first: 77, count: 32), payloadBytes: 32 * 4096)
        for _ in benchmark.scaledIterations {
            var span = bytes.mutableSpan
            var raw = span.mutableBytes
            header.encode(into: &raw)
            blackHole(try FrameHeader(decoding: raw.bytes))
        }
    }

    Benchmark("source-demand-and-window") { benchmark in
        var engine = SourceEngine(layout: layout)
        engine.start()
        var content = AllData()
        var page = 0
        for _ in benchmark.scaledIterations {
            page = (page + 16) % pages
            try engine.request(window: PageRange(region: 0, first: page, count: 16), demanded: page + 5)
            while let command = engine.nextUrgent(&content, includingWindows: true) { blackHole(command) }
        }
    }

    Benchmark("source-pushed-extent-128-KiB") { benchmark in
        var engine = SourceEngine(layout: layout)
        engine.start()
        try engine.credit(bytes: 1 << 40)
        var content = AllData()
        for _ in benchmark.scaledIterations { blackHole(engine.nextBulk(&content)) }
    }

    Benchmark("destination-fault-and-page") { benchmark in
        var engine = DestinationEngine(
            layout: layout, configuration: DestinationEngine.Configuration(receivesInPlace: [true], laneCount: 2))
        var sink = GrantingSink()
        var page = 0
        for _ in benchmark.scaledIterations {
            guard page < pages else { break }
            engine.fault(0, page, &sink)
            let header = FrameHeader(.pages, range: PageRange(region: 0, first: page, count: 1), payloadBytes: 4096)
            blackHole(try engine.place(header, lane: 0))
            engine.arrived(header, lane: 0, &sink)
            page += 1
        }
        blackHole(sink.installs)
    }

    Benchmark("bitmap-64-pages-set-next-gap-found") { benchmark in
        var bitmap = PageBitmap(pageCount: pages)
        var page = 0
        for _ in benchmark.scaledIterations {
            bitmap.insert(page..<(page + 64))
            blackHole(bitmap.firstClear(in: page..<pages))
            page = (page + 128) % (pages - 128)
        }
    }

    Benchmark("zero-scan-1-MiB-in-cache") { benchmark in
        let memory = try MappedMemory(anonymousBytes: 1 << 20)
        try memory.populate()
        for _ in benchmark.scaledIterations { blackHole(memory.isZero(firstPage: 0, count: 256)) }
    }
}
