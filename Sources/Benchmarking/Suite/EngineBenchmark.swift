import PageCore
import PageEngine
import PageWire

/// `bench engine`: what the two state machines cost a demanded page, without I/O, in regions from 64 MiB to 1 TiB.
struct EngineBenchmark {
    private static let sizes: [(name: String, bytes: Int)] = [
        ("64 MiB", 64 << 20), ("1 GiB", 1 << 30), ("64 GiB", 64 << 30), ("1 TiB", 1 << 40),
    ]
    private static let stepCount = 8_000

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "engine", title: "Engine step: a fault, its request, its page, both sides, no I/O", rounds: context.rounds)
        let ledger = try context.interleave("engine") { (round, ledger) throws(BenchmarkError) in
            for size in Self.sizes {
                ledger.record("near \(size.name)", try step(size.bytes, isSpread: false, round))
                ledger.record("spread \(size.name)", try step(size.bytes, isSpread: true, round))
            }
        }
        for (kind, title) in [("near", "random pages of 64 MiB in"), ("spread", "random pages of all")] {
            for size in Self.sizes {
                result.figures.append(
                    Figure(
                        "\(title) \(size.name)", unit: "ns", ledger["\(kind) \(size.name)"], against: "64 MiB", ledger["\(kind) 64 MiB"],
                        bound: size.name == "64 MiB" ? nil : .atMost(1.5)))
            }
        }
        result.notes = [
            "Random over all of a large region the tables themselves no longer fit the processor's caches: the difference is theirs."
        ]
        return result
    }

    /// - Returns: nanoseconds a step.
    private func step(_ bytes: Int, isSpread: Bool, _ round: Int) throws(BenchmarkError) -> Double {
        let layout = try orBenchmarkError { try RegionLayout([RegionDescription(name: "ram", lengthBytes: bytes, pageSize: .fourKiB)]) }
        var source = SourceEngine(layout: layout)
        source.start()
        var content = AllData()
        var destination = DestinationEngine(
            layout: layout, configuration: DestinationEngine.Configuration(receivesInPlace: [true], laneCount: 2))
        var sink = CountingSink()
        let pageCount = isSpread ? bytes >> PageSize.fourKiB.shift : Self.sizes[0].bytes >> PageSize.fourKiB.shift
        // No page is demanded twice: every step does the same work.
        var random = SeededRandom(seed: UInt64(round))
        let blockPages = pageCount / Self.stepCount
        var order = (0..<Self.stepCount).map { $0 * blockPages + random.next(below: blockPages) }
        order.shuffle(using: &random)
        let start = MonotonicClock.nowNanoseconds()
        do throws(EngineViolation) {
            for page in order {
                destination.fault(0, page, &sink)
                try source.request(window: PageRange(region: 0, first: page, count: 1), demanded: page)
                guard case .pages(let range, let reason) = source.nextUrgent(&content, includingWindows: true) else { continue }
                let header = FrameHeader(.pages, reason: reason, range: range, payloadBytes: range.count << PageSize.fourKiB.shift)
                _ = try destination.place(header, lane: 0)
                destination.arrived(header, lane: 0, &sink)
            }
        } catch {
            throw BenchmarkError(error.description)
        }
        let elapsed = MonotonicClock.nowNanoseconds() - start
        guard sink.installedPages == Self.stepCount else { throw BenchmarkError("the engine installed only \(sink.installedPages) pages") }
        return Double(elapsed) / Double(Self.stepCount)
    }
}

/// Memory in which every page holds data.
private struct AllData: ContentClassifier {
    func classify(_ range: PageRange, mostScanned: Int) -> ContentRun { ContentRun(.data, count: min(mostScanned, range.count)) }
    func firstHole(in range: PageRange) -> PageRange? { nil }
}

/// A destination whose wishes are always granted and never carried out.
private struct CountingSink: DestinationSink {
    var installedPages = 0
    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool { true }
    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool { true }
    mutating func install(_ range: PageRange) { installedPages += range.count }
    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) { installedPages += range.count }
    mutating func resolve(_ region: RegionIndex, _ page: PageIndex) {}
    mutating func erase(_ range: PageRange) {}
    mutating func record(_ range: PageRange) {}
    mutating func grantCredit(bytes: Int) -> Bool { true }
    mutating func reportRemoved(_ range: PageRange) -> Bool { true }
    mutating func reportAllResident() -> Bool { true }
}
