import PageCore
import PageEngine
import PageWire

/// One thread of a guest that touches pages in a given order, both state machines, and a link with a rate and a latency, under a
/// virtual clock: what a window policy is worth on a pattern.
public struct PatternSimulation: ~Copyable {
    /// Times in virtual nanoseconds, rates in bytes a microsecond.
    public struct Host: Sendable {
        /// One way.
        public var latencyNanoseconds = 25_000
        public var linkBytesPerMicrosecond = 1_250
        /// The guest's own time from one touch to the next.
        public var thinkNanoseconds = 5_000
        /// A fault that is answered without the wire.
        public var localFaultNanoseconds = 15_000

        /// 10 Gbit/s, 50 us there and back, a thread that uses 0.8 GB/s.
        public init() {}
    }

    /// What a pattern met. Pages count once, however often they were touched or sent.
    public struct Outcome: Sendable {
        public var touchedPages = 0
        /// Touches that waited for the wire.
        public var networkFaults = 0
        /// Touches of pages that were here, and not visible.
        public var localFaults = 0
        public var sentPages = 0
        /// Sent, and never touched.
        public var unusedPages = 0
        public var waitedNanoseconds = 0
        public var elapsedNanoseconds = 0

        /// Of the pages touched; 0 when there were none.
        public var networkFaultPercent: Double { touchedPages == 0 ? 0 : 100 * Double(networkFaults) / Double(touchedPages) }
        /// Of the pages sent.
        public var unusedPercent: Double { sentPages == 0 ? 0 : 100 * Double(unusedPages) / Double(sentPages) }
    }

    private struct Timed<Value: Sendable>: Sendable {
        var time: Int
        var value: Value
    }

    private let host: Host
    private var source: SourceEngine
    private var destination: DestinationEngine
    private var content = DataOnly()
    private var guest: PatternGuest
    /// On their way, in order: frames in both directions.
    private var requests: [Timed<FrameHeader>] = []
    private var requestHead = 0
    private var arrivals: [Timed<FrameHeader>] = []
    private var arrivalHead = 0
    /// When the source sends next; nil while it has nothing to send.
    private var nextSend: Int?
    private var linkFree = 0
    private var now = 0

    private init(layout: RegionLayout, policy: WindowPolicy, host: Host) {
        self.host = host
        source = SourceEngine(layout: layout)
        source.start()
        var configuration = DestinationEngine.Configuration(
            receivesInPlace: layout.regions.map { _ in true }, laneCount: 1)
        configuration.window = policy
        configuration.creditBytes = 0
        destination = DestinationEngine(layout: layout, configuration: configuration)
        guest = PatternGuest(layout: layout)
    }

    /// Touches session pages in order; nothing is pushed.
    ///
    /// - Parameter replaying: pages to pull first, as from a trace.
    public static func run(
        _ touches: [Int], layout: RegionLayout, policy: WindowPolicy, host: Host = Host(), replaying trace: PageTrace? = nil
    ) -> Outcome {
        var simulation = PatternSimulation(layout: layout, policy: policy, host: host)
        if let trace { simulation.destination.replay(trace.runs) }
        return simulation.run(touches)
    }

    private mutating func run(_ touches: [Int]) -> Outcome {
        var outcome = Outcome()
        var isTouched = PageBitmap(pageCount: guest.layout.totalPages)
        turn()
        for page in touches {
            now += host.thinkNanoseconds
            advance(to: now)
            isTouched.insert(page)
            if guest.isVisible.contains(page) { continue }
            let misses = destination.missCount
            let region = guest.layout.region(ofSessionPage: page)
            destination.fault(region, guest.layout.range(region, sessionPages: page..<(page + 1)).first, &guest)
            turn()
            if destination.missCount == misses {
                outcome.localFaults += 1
                now += host.localFaultNanoseconds
                continue
            }
            outcome.networkFaults += 1
            let start = now
            while !guest.isVisible.contains(page) {
                guard let time = nextTime else { preconditionFailure("a demanded page is on its way") }
                advance(to: time)
            }
            now += host.localFaultNanoseconds
            outcome.waitedNanoseconds += now - start
        }
        outcome.elapsedNanoseconds = now
        while let time = nextTime { advance(to: time) }
        outcome.touchedPages = isTouched.setCount
        outcome.sentPages = source.counts.demand + source.counts.window
        outcome.unusedPages = outcome.sentPages - isTouched.setCount
        return outcome
    }

    // MARK: Time

    private var nextTime: Int? {
        var next = nextSend ?? .max
        if requestHead < requests.count { next = min(next, requests[requestHead].time) }
        if arrivalHead < arrivals.count { next = min(next, arrivals[arrivalHead].time) }
        return next == .max ? nil : next
    }

    /// Lets everything happen that is due by `time`, in order.
    private mutating func advance(to time: Int) {
        while let next = nextTime, next <= time {
            now = max(now, next)
            if requestHead < requests.count, requests[requestHead].time == next {
                takeRequest(requests[requestHead].value)
                requestHead += 1
                if nextSend == nil { nextSend = max(next, linkFree) }
            } else if arrivalHead < arrivals.count, arrivals[arrivalHead].time == next {
                arrive(arrivals[arrivalHead].value)
                arrivalHead += 1
                turn()
            } else {
                send(next)
            }
        }
    }

    private mutating func takeRequest(_ header: FrameHeader) {
        do throws(EngineViolation) {
            if header.kind == .request {
                try source.request(window: header.range, demanded: PageIndex(header.argument), stride: header.stride)
            } else {
                try source.prefetch(header.range, stride: header.stride)
            }
        } catch {
            preconditionFailure("the engine asks for pages of its own layout")
        }
    }

    private mutating func send(_ time: Int) {
        guard case .pages(let range, let reason)? = source.nextUrgent(&content, includingWindows: true) else {
            nextSend = nil
            return
        }
        let bytes = range.count << guest.layout[range.region].pageSize.shift
        linkFree = time + (bytes + FrameHeader.byteCount) * 1_000 / host.linkBytesPerMicrosecond
        nextSend = linkFree
        arrivals.append(
            Timed(time: linkFree + host.latencyNanoseconds, value: FrameHeader(.pages, reason: reason, range: range, payloadBytes: bytes)))
    }

    private mutating func arrive(_ header: FrameHeader) {
        do throws(EngineViolation) { _ = try destination.place(header, lane: 0) } catch {
            preconditionFailure("the source sends what was asked")
        }
        destination.arrived(header, lane: 0, &guest)
    }

    /// What the destination's loop does after each event.
    private mutating func turn() {
        destination.retry(&guest)
        for header in guest.outgoing { requests.append(Timed(time: now + host.latencyNanoseconds, value: header)) }
        guest.outgoing.removeAll(keepingCapacity: true)
    }
}

/// Memory in which every page holds data.
private struct DataOnly: ContentClassifier {
    func classify(_ range: PageRange, mostScanned: Int) -> ContentRun { ContentRun(.data, count: min(mostScanned, range.count)) }
    func firstHole(in range: PageRange) -> PageRange? { nil }
}

/// The destination's guest: which pages it can touch without a fault.
private struct PatternGuest: ~Copyable, DestinationSink {
    let layout: RegionLayout
    var isVisible: PageBitmap
    var outgoing: [FrameHeader] = []

    init(layout: RegionLayout) {
        self.layout = layout
        isVisible = PageBitmap(pageCount: layout.totalPages)
    }

    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool {
        var header = FrameHeader(.request, range: window)
        header.argument = UInt64(demanded)
        header.stride = stride
        outgoing.append(header)
        return true
    }

    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool {
        var header = FrameHeader(.prefetch, range: window)
        header.stride = stride
        outgoing.append(header)
        return true
    }

    mutating func install(_ range: PageRange) { isVisible.insert(layout.sessionPages(range)) }
    mutating func resolve(_ region: RegionIndex, _ page: PageIndex) { isVisible.insert(layout.sessionPage(region, page)) }
    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) {}
    mutating func erase(_ range: PageRange) {}
    mutating func record(_ range: PageRange) {}
    mutating func grantCredit(bytes: Int) -> Bool { true }
    mutating func reportRemoved(_ range: PageRange) -> Bool { true }
    mutating func reportAllResident() -> Bool { true }
}
