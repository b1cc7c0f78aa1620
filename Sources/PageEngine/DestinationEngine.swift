import PageCore
import PageWire

/// The destination's state machine: which pages are here, which are waited for, and what is to be done next. No I/O, no
/// clock, no threads; the same code runs on the kernel and in the simulator.
///
/// A page is *settled* once its content is decided here: its bytes have arrived, or it reads as zero, or the guest gave
/// it up. It settles once; whatever the source says of it later is dropped.
public struct DestinationEngine: ~Copyable {
    /// Set at start; see the fields.
    public struct Configuration: Sendable {
        public var window = WindowPolicy()
        /// Bytes of pushed pages that may be on the way; the source never sends more unasked. 0: nothing is pushed, and pages
        /// nobody touches never come.
        public var creditBytes = 2 << 20
        /// Whether pages of a region are received straight into its second mapping; without one (anonymous memory)
        /// they go through a slab. One entry a region.
        public var receivesInPlace: [Bool]
        /// Whether pushed pages of a region that receives in place go through a slab all the same. One entry a region; none for
        /// nowhere.
        public var copiesPush: [Bool] = []
        public var laneCount: Int

        public init(receivesInPlace: [Bool], laneCount: Int) {
            self.receivesInPlace = receivesInPlace
            self.laneCount = laneCount
        }
    }

    public let layout: RegionLayout
    let configuration: Configuration
    /// Pages whose content is decided, by session page number.
    var settled: PageBitmap
    /// Pages a thread waits for, by session page number.
    var demanded: PageBitmap
    /// By lane.
    var receptions: Receptions
    /// Lanes on which the source has said that nothing more follows.
    var endedLanes: [Bool]
    /// Bytes of pushed pages that may be on the way now; 0: nothing is pushed. May change at any time: less is granted until
    /// what was granted before has come.
    public var creditWindowBytes: Int {
        didSet { if creditWindowBytes != 0 { creditWindowBytes = max(creditWindowBytes, leastCreditBytes) } }
    }
    /// Credit is granted from so many bytes on; nil: a quarter of the window at a time, rare enough to cost nothing, early
    /// enough that the push never runs dry.
    public var leastGrantBytes: Int?
    /// Two of the largest pages: less could leave the push without credit for a whole one for good.
    public let leastCreditBytes: Int
    /// Granted, and not come yet.
    var creditOutstandingBytes = 0
    /// Bytes of pushed pages that have come.
    public internal(set) var pushedBytes = 0
    /// Demanded pages whose request could not be queued yet, by session page number.
    var refusedRequests: PageBitmap
    /// Pages the guest gave up of which the source was not told yet, by session page number.
    var unreportedRemovals: PageBitmap
    var hasReportedAllResident = false
    public internal(set) var counts = PageCounts()
    /// Faults seen, those on pages already here included.
    public internal(set) var faultCount = 0
    /// Faults on pages that were not here: the thread waits for the wire.
    public internal(set) var missCount = 0
    /// What to fetch around faults.
    var planner: WindowPlanner
    /// A prefetch that found no room, to be asked for at `retry`.
    var refusedPrefetch: PlannedWindow?
    /// Pages an earlier run needed.
    var replays = ReplayQueue()

    public init(layout: RegionLayout, configuration: Configuration) {
        precondition(configuration.receivesInPlace.count == layout.count, "one placement a region")
        precondition([0, layout.count].contains(configuration.copiesPush.count), "one entry a region, or none")
        self.layout = layout
        self.configuration = configuration
        planner = WindowPlanner(layout: layout, policy: configuration.window)
        var pages = PageBitmapGroup(pageCount: layout.totalPages, bitmaps: 2)
        settled = pages.take()
        demanded = pages.take()
        refusedRequests = PageBitmap(pageCount: layout.totalPages)
        unreportedRemovals = PageBitmap(pageCount: layout.totalPages)
        receptions = Receptions(laneCount: configuration.laneCount)
        endedLanes = Array(repeating: false, count: configuration.laneCount)
        leastCreditBytes = 2 * (layout.regions.map { $0.pageSize.bytes }.max() ?? 0)
        creditWindowBytes = configuration.creditBytes == 0 ? 0 : max(configuration.creditBytes, leastCreditBytes)
    }

    /// Pages whose content is not decided yet.
    public var missingPages: Int { settled.clearCount }

    /// Whether every page is in, and no lane still writes bytes the guest has given up: from here on nothing touches
    /// guest memory any more. O(lanes).
    public var isComplete: Bool { missingPages == 0 && !isReceivingInPlace }

    private var isReceivingInPlace: Bool {
        receptions.contains { if case .direct = $0.placement { true } else { false } }
    }

    /// Whether a lane is writing bytes into mapping B of a region. O(lanes).
    public func isReceivingInPlace(into region: RegionIndex) -> Bool {
        receptions.contains { if case .direct(let range) = $0.placement { range.region == region } else { false } }
    }

    /// Whether the page's content is decided.
    public func isSettled(_ region: RegionIndex, _ page: PageIndex) -> Bool {
        settled.contains(layout.sessionPage(region, page))
    }

    /// Pages whose content is decided, by session page number.
    public var settledPages: PageBitmap { _read { yield settled } }

    /// Whether pushed pages are on their way, as far as credit tells.
    public var isPushed: Bool { creditOutstandingBytes > 0 && !isComplete }

    /// Pages threads wait for.
    public var waitingPages: Int { demanded.setCount }

    /// Does what could not be done when it fell due, and grants credit. Call once a turn, before the transport is flushed.
    public mutating func retry<Sink: DestinationSink & ~Copyable>(_ sink: inout Sink) {
        if refusedRequests.setCount > 0 { repeatRefusedRequests(&sink) }
        if let prefetch = refusedPrefetch { ask(prefetch, &sink) }
        if !replays.isFinished { askForReplay(&sink) }
        let dueBytes = creditWindowBytes - creditOutstandingBytes
        if dueBytes > 0, dueBytes >= leastGrantBytes ?? creditWindowBytes / 4 || isComplete {
            if sink.grantCredit(bytes: dueBytes) { creditOutstandingBytes += dueBytes }
        }
        if unreportedRemovals.setCount > 0 { reportRemovals(&sink) }
        // The source checks the claim against what it has sent and what it was told, so the removals go first.
        if isComplete, !hasReportedAllResident, unreportedRemovals.setCount == 0 {
            hasReportedAllResident = sink.reportAllResident()
        }
    }
}
