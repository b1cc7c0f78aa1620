import PageCore
import PageWire

/// What the source is to send next.
public enum SourceCommand: Sendable, Hashable {
    /// The bytes of a range.
    case pages(PageRange, PageReason)
    /// A range that reads as zero.
    case zero(PageRange, PageReason)
}

/// The source's state machine: what has been sent, what is asked for, what is pushed next. No I/O, no clock, no threads.
///
/// It is pulled: whoever has room on a lane asks for the next thing to send there, the urgent lane first. A page leaves
/// once: the moment it is answered it counts as sent.
public struct SourceEngine: ~Copyable {
    public struct Configuration: Sendable {
        /// The most bytes of one pushed extent. Large enough to cost little a page, small enough that a demand which
        /// comes while one is being handed to the kernel does not wait long. At most what a frame may hold.
        public var extentBytes = 128 << 10
        /// The most bytes of one frame of a window, so that a demand which comes meanwhile waits for one frame only.
        public var windowFrameBytes = 64 << 10
        /// Demands kept in order of arrival; more are kept without their order.
        public var demandQueueLength = 1024
        /// Windows waiting behind demands. When more come the oldest are given up: the push brings their pages, or a fault.
        public var windowQueueLength = 64
        /// The same of what is wanted ahead of any demand: more than a destination asks for at a time.
        public var prefetchQueueLength = 256

        public init() {}
    }

    private struct Demand: Sendable {
        var number: Int
        var window: PageRange
        var stride: Int
    }

    public let layout: RegionLayout
    private let configuration: Configuration
    /// Pages that have left, or need not leave, by session page number.
    private var sent: PageBitmap
    private var demands: BoundedQueue<Demand>
    private var windows: BoundedQueue<SourceWindow>
    private var prefetches: BoundedQueue<SourceWindow>
    /// Demands that found their queue full, by session page number.
    private var overflowed: PageBitmap
    /// Whether those without order are next. They and the queue take turns, so that neither starves the other.
    private var isOverflowNext = false
    /// Where the search for the next of them goes on.
    private var overflowCursor = 0
    /// Where the push goes on, as a session page number.
    private var cursor = 0
    /// How far the announcement of holes has come; it runs ahead of the push.
    private var holeCursor = 0
    private var isStarted = false
    public private(set) var creditBytes = 0
    public private(set) var counts = PageCounts()
    public private(set) var requestCount = 0

    public init(layout: RegionLayout, configuration: Configuration = Configuration()) {
        self.layout = layout
        var configuration = configuration
        configuration.extentBytes = min(configuration.extentBytes, FrameLimits.mostPageBytes)
        configuration.windowFrameBytes = min(configuration.windowFrameBytes, FrameLimits.mostPageBytes)
        self.configuration = configuration
        sent = PageBitmap(pageCount: layout.totalPages)
        overflowed = PageBitmap(pageCount: layout.totalPages)
        demands = BoundedQueue(capacity: configuration.demandQueueLength)
        windows = BoundedQueue(capacity: configuration.windowQueueLength)
        prefetches = BoundedQueue(capacity: configuration.prefetchQueueLength)
    }

    /// From now on the memory is final: requests are answered and the push begins.
    public mutating func start() { isStarted = true }

    /// Pages that have not left yet.
    public var unsentPages: Int { sent.clearCount }

    /// Whether windows or prefetches wait behind the demands.
    public var hasWindows: Bool { !windows.isEmpty || !prefetches.isEmpty }

    /// Whether every page has left.
    public var isAllSent: Bool { isStarted && sent.clearCount == 0 }

    // MARK: Events

    /// A thread at the destination waits for page `demanded`; `window` holds it and is worth sending too, or, with a stride,
    /// every so manyth page of it ahead of the demanded one.
    public mutating func request(window: PageRange, demanded: PageIndex, stride: Int = 0) throws(EngineViolation) {
        guard Int(window.region) < layout.count, layout.contains(window), window.contains(demanded) else {
            throw .outsideRegions(window)
        }
        requestCount += 1
        let number = layout.sessionPage(window.region, demanded)
        // Its window is not on its way yet when the page itself came with an earlier one.
        if sent.contains(number) { return rememberWindow(window, stride, behind: number) }
        if !demands.append(Demand(number: number, window: window, stride: stride)) { overflowed.insert(number) }
    }

    /// Nobody waits for `window` yet, or for every `stride`th page of it, but somebody will soon.
    public mutating func prefetch(_ window: PageRange, stride: Int = 0) throws(EngineViolation) {
        guard Int(window.region) < layout.count, layout.contains(window) else { throw .outsideRegions(window) }
        if prefetches.isFull { prefetches.popFirst() }
        _ = prefetches.append(SourceWindow(region: window.region, pages: layout.sessionPages(window), stride: stride))
    }

    /// Pages need not leave any more, for a reason of the owner's.
    public mutating func settled(_ range: PageRange) { sent.insert(layout.sessionPages(range)) }

    /// The destination will take `bytes` more of pushed pages.
    public mutating func credit(bytes: UInt64) throws(EngineViolation) {
        guard bytes <= UInt64(RegionLayout.mostBytes), creditBytes <= RegionLayout.mostBytes else { throw .creditOverflow }
        creditBytes += Int(bytes)
    }

    /// The guest at the destination gave pages up: they need not leave any more.
    public mutating func removed(_ range: PageRange) throws(EngineViolation) {
        guard Int(range.region) < layout.count, layout.contains(range) else { throw .outsideRegions(range) }
        counts.removed += sent.insert(layout.sessionPages(range))
    }

    /// The destination was found again after the link was lost, and has told which session pages it has. Whatever else was on
    /// its way is lost and leaves anew; what was asked for will be asked for again.
    public mutating func resume(resident: borrowing PageBitmap) {
        precondition(resident.pageCount == layout.totalPages, "a bit a page")
        while demands.popFirst() != nil {}
        while windows.popFirst() != nil {}
        while prefetches.popFirst() != nil {}
        overflowed.removeAll()
        creditBytes = 0
        // Holes may have been on their way too: they are cheap to tell again.
        holeCursor = 0
        let changed = sent.replace(with: resident)
        counts.found += changed.set
        counts.lost += changed.cleared
    }

    // MARK: What to send next

    /// The next thing for the urgent lane: the oldest demand first; then, when `includingWindows`, the oldest window.
    public mutating func nextUrgent<Content: ContentClassifier & ~Copyable>(
        _ content: inout Content, includingWindows: Bool
    ) -> SourceCommand? {
        guard isStarted else { return nil }
        while let demand = nextDemand() {
            if sent.contains(demand.number) { continue }
            rememberWindow(demand.window, demand.stride, behind: demand.number)
            let region = demand.window.region
            let page = layout.range(region, sessionPages: demand.number..<(demand.number + 1))
            return send(page, .demand, mostScanned: 1, &content)
        }
        return includingWindows ? nextOfWindows(&content) : nil
    }

    /// The next thing for a bulk lane: holes first, since they cost nothing and spare faults; then what lies behind the
    /// last fault, as far as the credit goes.
    ///
    /// - Parameters:
    ///   - mostBytes: the most bytes of content wanted now; below a page nothing but zero ranges comes.
    ///   - end: session pages from here on are left for later.
    public mutating func nextBulk<Content: ContentClassifier & ~Copyable>(
        _ content: inout Content, mostBytes: Int = .max, before end: Int = .max
    ) -> SourceCommand? {
        guard isStarted, sent.clearCount > 0 else { return nil }
        if let hole = nextHole(&content) { return .zero(hole, .push) }
        guard creditBytes > 0, mostBytes > 0 else { return nil }
        let end = min(end, layout.totalPages)
        let from = min(cursor, end)
        guard let start = sent.firstClear(in: from..<end) ?? sent.firstClear(in: 0..<from) else { return nil }
        let region = layout.region(ofSessionPage: start)
        let pageBytes = layout.byteCount(region, pages: 1)
        guard creditBytes >= pageBytes else { return nil }
        let regionEnd = min(end, layout.sessionPages(layout.wholeRange(region)).upperBound)
        let most = max(1, min(configuration.extentBytes, creditBytes, mostBytes) / pageBytes)
        guard let run = sent.firstClearRun(in: start..<regionEnd, most: most) else { return nil }
        let command = send(layout.range(region, sessionPages: run), .push, mostScanned: most, &content)
        let part: PageRange
        switch command {
        case .pages(let range, _):
            creditBytes -= range.count * pageBytes
            part = range
        case .zero(let range, _):
            part = range
        }
        // Everything from the old cursor to here has left: looking at it again for every extent would cost the square
        // of the memory's size.
        moveCursor(behind: part)
        return command
    }

    // MARK: Parts

    private mutating func nextDemand() -> Demand? {
        guard overflowed.setCount > 0, isOverflowNext || demands.isEmpty else {
            isOverflowNext = true
            return demands.popFirst()
        }
        isOverflowNext = false
        guard let number = overflowed.firstSet(in: overflowCursor..<layout.totalPages) ?? overflowed.firstSet(in: 0..<overflowCursor)
        else { return nil }
        overflowed.remove(number)
        overflowCursor = number
        let region = layout.region(ofSessionPage: number)
        return Demand(number: number, window: layout.range(region, sessionPages: number..<(number + 1)), stride: 0)
    }

    /// Queues the window behind all demands, and lets the push go on where it ends.
    private mutating func rememberWindow(_ window: PageRange, _ stride: Int, behind number: Int) {
        moveCursor(behind: window)
        guard window.count > 1 else { return }
        if windows.isFull { windows.popFirst() }
        _ = windows.append(
            SourceWindow(region: window.region, pages: layout.sessionPages(window), stride: stride, behind: number))
    }

    private mutating func moveCursor(behind range: PageRange) {
        let end = layout.sessionPages(range).upperBound
        cursor = end == layout.totalPages ? 0 : end
    }

    private mutating func nextOfWindows<Content: ContentClassifier & ~Copyable>(_ content: inout Content) -> SourceCommand? {
        let frameBytes = configuration.windowFrameBytes
        let next =
            Self.next(of: &windows, notIn: sent, layout, frameBytes: frameBytes)
            ?? Self.next(of: &prefetches, notIn: sent, layout, frameBytes: frameBytes)
        guard let (region, run) = next else { return nil }
        return send(layout.range(region, sessionPages: run), .window, mostScanned: run.count, &content)
    }

    /// The next run of the oldest window that has something left.
    private static func next(
        of queue: inout BoundedQueue<SourceWindow>, notIn sent: borrowing PageBitmap, _ layout: RegionLayout, frameBytes: Int
    ) -> (RegionIndex, Range<Int>)? {
        while var window = queue.first {
            let most = max(1, frameBytes >> layout.pageShift(window.region))
            if let run = window.next(notIn: sent, most: most) {
                queue.replaceFirst(with: window)
                return (window.region, run)
            }
            queue.popFirst()
        }
        return nil
    }

    /// Looks at the first pages of an unsent range, and sends as many as are alike.
    private mutating func send<Content: ContentClassifier & ~Copyable>(
        _ range: PageRange, _ reason: PageReason, mostScanned: Int, _ content: inout Content
    ) -> SourceCommand {
        let run = content.classify(range, mostScanned: mostScanned)
        let part = PageRange(region: range.region, first: range.first, count: min(run.count, range.count))
        let fresh = sent.insert(layout.sessionPages(part))
        switch run.kind {
        case .zero:
            counts.zero += fresh
            return .zero(part, reason)
        case .data:
            counts.add(fresh, reason)
            counts.contentBytes += layout.byteCount(part)
            return .pages(part, reason)
        }
    }

    /// The next hole not announced yet. Holes are announced whole, pages already sent as zero among them: saying it
    /// twice is harmless and keeps the ranges long.
    private mutating func nextHole<Content: ContentClassifier & ~Copyable>(_ content: inout Content) -> PageRange? {
        while holeCursor < layout.totalPages {
            let region = layout.region(ofSessionPage: holeCursor)
            let regionEnd = layout.sessionPages(layout.wholeRange(region)).upperBound
            guard let hole = content.firstHole(in: layout.range(region, sessionPages: holeCursor..<regionEnd)) else {
                holeCursor = regionEnd
                continue
            }
            let pages = layout.sessionPages(hole)
            holeCursor = pages.upperBound
            let fresh = sent.insert(pages)
            guard fresh > 0 else { continue }
            counts.zero += fresh
            return hole
        }
        return nil
    }
}
