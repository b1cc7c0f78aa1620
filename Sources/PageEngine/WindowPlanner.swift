import PageCore

/// Pages to be fetched together: all of a run of session pages, or every `stride`th of it.
public struct PlannedWindow: Sendable, Hashable {
    public var pages: Range<Int>
    /// 0: all pages. Otherwise the wanted ones lie this far apart, upwards from the first or, negative, downwards from the last;
    /// of a window around a missed page only those ahead of it.
    public var stride: Int

    public init(pages: Range<Int>, stride: Int = 0) {
        self.pages = pages
        self.stride = stride
    }
}

/// Decides what is fetched around a missed page, from nothing but the misses and touches so far. No clock, no I/O; its tables
/// have one size, set at start.
///
/// - A page that continues a *stream* (a thread that goes through memory in steps of one size, in either direction) is fetched
///   with a window ahead of it, which doubles while the stream goes on, and halves when it leaves pages out.
/// - Any other page is fetched with a block around it, as large as such blocks have proved useful lately: a single page where
///   faults are random.
///
/// What comes unasked is visible to the guest without a fault, and its use unknown. So one page of each window is *held*: it
/// is here, but not mapped, and the first touch of it is a fault that is answered without the wire. It tells that the window is
/// used, and asks for the next one before the thread gets there.
public struct WindowPlanner: ~Copyable, Sendable {
    private let layout: RegionLayout
    private let policy: WindowPolicy
    private var streams = StreamTable()
    private var history: FaultHistory
    private var locality: LocalitySampler
    /// Misses and touches so far: the planner's time.
    private var clock = 0

    public init(layout: RegionLayout, policy: WindowPolicy) {
        self.layout = layout
        self.policy = policy
        history = FaultHistory(totalPages: layout.totalPages)
        locality = LocalitySampler(totalPages: layout.totalPages)
    }

    /// A thread waits for session page `page`, which is not here.
    ///
    /// - Returns: its window, the page included.
    public mutating func missed(_ page: Int, settled: borrowing PageBitmap) -> PlannedWindow {
        let region = layout.region(ofSessionPage: page)
        guard policy.shape == .adaptive else {
            let index = layout.range(region, sessionPages: page..<(page + 1)).first
            return PlannedWindow(pages: layout.sessionPages(policy.window(around: index, in: region, of: layout)))
        }
        let mostPages = policy.windowBytes >> layout.pageShift(region)
        guard mostPages > 1 else { return PlannedWindow(pages: page..<(page + 1)) }
        let bounds = layout.sessionPages(layout.wholeRange(region))
        clock += 1
        locality.noteTouch(page)
        defer { history.note(page, clock: clock) }
        if let window = streams.missed(page, clock: clock, bounds: bounds, mostPages: mostPages, settled: settled) { return window }
        if let stride = history.trend(to: page, clock: clock), stride.magnitude == 1 || stride.magnitude >= locality.usefulPages {
            return streams.begin(page, stride: stride, clock: clock, bounds: bounds, mostPages: mostPages, settled: settled)
        }
        return PlannedWindow(pages: locality.block(around: page, bounds: bounds, mostPages: mostPages, settled: settled))
    }

    /// A thread touched session page `page`, which was here and not visible: held, or a page of zeros.
    ///
    /// - Returns: what will be needed soon, or nil.
    public mutating func touched(_ page: Int, settled: borrowing PageBitmap) -> PlannedWindow? {
        guard policy.shape == .adaptive else { return nil }
        clock += 1
        locality.noteTouch(page)
        defer { history.note(page, clock: clock) }
        let region = layout.region(ofSessionPage: page)
        let mostPages = policy.windowBytes >> layout.pageShift(region)
        guard mostPages > 1 else { return nil }
        return streams.touched(
            page, clock: clock, bounds: layout.sessionPages(layout.wholeRange(region)), mostPages: mostPages, settled: settled)
    }

    /// The first of `pages` that is to stay invisible when it comes. O(held pages), of which there are fewer than a hundred.
    public func firstHeld(in pages: Range<Int>) -> Int? {
        guard policy.shape == .adaptive, pages.count > 0 else { return nil }
        return switch (streams.firstHeld(in: pages), locality.firstHeld(in: pages)) {
        case (let one?, let other?): min(one, other)
        case (let one, let other): one ?? other
        }
    }
}
