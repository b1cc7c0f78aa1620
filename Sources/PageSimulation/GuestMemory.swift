import PageCore
import PageEngine

/// The destination's guest memory with the kernel's rules, page by session page number: what the page cache holds (one
/// word for the bytes, and how many of them are there), what the guest sees of it, and what it must find.
struct GuestMemory: ~Copyable {
    let layout: RegionLayout
    private let pageBytes: ContiguousArray<Int>
    private var words: ContiguousArray<UInt64>
    /// Bytes that were written, by page; 0 for an absent page.
    private var filled: ContiguousArray<Int>
    private(set) var isMapped: PageBitmap
    private var expected: ContiguousArray<UInt64>
    /// Pages between the removal's event and the kernel's zap: the guest may find either content.
    private var isLeaving: PageBitmap
    /// Pages that were installed since they came.
    private var isInstalled: PageBitmap
    /// Pages the engine knows the guest gave up before they came.
    private var isGivenUp: PageBitmap
    /// Pages of which a daemon that died had received a part: the part is still in the page cache.
    private var isStale: PageBitmap
    /// Pages given up whose removal a daemon read and did not put on record before it died: they may come once more as the source
    /// has them (Documentation/Decisions/0010-lost-links-and-take-overs.md).
    private var isUncertain: PageBitmap
    private let source: ContiguousArray<UInt64>
    /// Whether the ranges are unregistered: absent pages read as zero by themselves.
    private(set) var isReleased = false
    private(set) var violation: InvariantViolation?

    init(_ scenario: borrowing Scenario, words source: ContiguousArray<UInt64>) {
        layout = scenario.layout
        let pages = layout.totalPages
        var sizes: ContiguousArray<Int> = []
        for region in layout.regions {
            for _ in 0..<region.pageCount { sizes.append(region.pageSize.bytes) }
        }
        pageBytes = sizes
        words = ContiguousArray(repeating: 0, count: pages)
        filled = ContiguousArray(repeating: 0, count: pages)
        isMapped = PageBitmap(pageCount: pages)
        expected = source
        self.source = source
        isStale = PageBitmap(pageCount: pages)
        isUncertain = PageBitmap(pageCount: pages)
        isLeaving = PageBitmap(pageCount: pages)
        isInstalled = PageBitmap(pageCount: pages)
        isGivenUp = PageBitmap(pageCount: pages)
    }

    mutating func fail(_ violation: InvariantViolation) {
        if self.violation == nil { self.violation = violation }
    }

    // MARK: Through the second mapping

    /// `bytes` of a page's content arrive in the page cache.
    mutating func receive(_ page: Int, bytes: Int, word: UInt64) {
        if isMapped.contains(page) { fail(.writtenWhileVisible(page: page)) }
        words[page] = word
        filled[page] += bytes
        isStale.remove(page)
    }

    /// A hole is punched into the page cache: the page is gone from every mapping.
    mutating func erase(_ page: Int) {
        if isMapped.contains(page), !isLeaving.contains(page) { fail(.wrongContent(page: page, shown: 0, expected: expected[page])) }
        isMapped.remove(page)
        isStale.remove(page)
        words[page] = 0
        filled[page] = 0
    }

    // MARK: By ioctl

    /// CONTINUE: the page cache's page becomes visible.
    mutating func install(_ page: Int) {
        noteInstall(page)
        if isMapped.contains(page) { return }
        if filled[page] == 0 { return fail(.visibleBeforeWhole(page: page, bytes: 0)) }
        show(page)
    }

    /// COPY: a page appears with its content, unless one is there.
    mutating func copy(_ page: Int, word: UInt64) {
        noteInstall(page)
        if isMapped.contains(page) || filled[page] > 0 { return show(page) }
        if isStale.contains(page) { return fail(.visibleBeforeWhole(page: page, bytes: 0)) }
        words[page] = word
        filled[page] = pageBytes[page]
        show(page)
    }

    private mutating func noteInstall(_ page: Int) {
        if !isInstalled.insert(page) { fail(.installedTwice(page: page)) }
        if isGivenUp.contains(page) { fail(.installedThoughGivenUp(page: page)) }
    }

    /// CONTINUE, and when the page cache holds nothing, ZEROPAGE.
    mutating func resolve(_ page: Int) {
        if isMapped.contains(page) { return }
        if isStale.contains(page) { return fail(.visibleBeforeWhole(page: page, bytes: 0)) }
        if filled[page] == 0 {
            words[page] = 0
            filled[page] = pageBytes[page]
        }
        show(page)
    }

    private mutating func show(_ page: Int) {
        if filled[page] != pageBytes[page] { fail(.visibleBeforeWhole(page: page, bytes: filled[page])) }
        isMapped.insert(page)
        check(page)
    }

    private mutating func check(_ page: Int) {
        if isUncertain.contains(page), words[page] == 0 || words[page] == source[page] {
            expected[page] = words[page]
            return
        }
        guard words[page] != expected[page], !(isLeaving.contains(page) && words[page] == 0) else { return }
        fail(.wrongContent(page: page, shown: words[page], expected: expected[page]))
    }

    /// The engine hears that pages are given up which had not come.
    mutating func giveUp(_ page: Int) { isGivenUp.insert(page) }

    /// The daemon died between reading a removal and putting it on record.
    mutating func removalIsCut(_ pages: Range<Int>, _ recorded: borrowing PageBitmap) {
        for page in pages where !recorded.contains(page) { isUncertain.insert(page) }
    }

    /// Whether a page's bytes are here, and the guest does not see them.
    func holds(_ page: Int) -> Bool { filled[page] > 0 && !isMapped.contains(page) }

    // MARK: By the guest

    /// The guest touches a page.
    ///
    /// - Returns: false when it faults.
    mutating func access(_ page: Int, writing version: UInt64?) -> Bool {
        if !isMapped.contains(page) {
            guard isReleased else { return false }
            resolve(page)
        }
        if let version {
            words[page] = version
            expected[page] = version
            isUncertain.remove(page)
        } else {
            check(page)
        }
        return true
    }

    /// A removal begins: until the zap the guest may find either.
    ///
    /// - Returns: false when another is under way there, and this one does not begin.
    mutating func leave(_ pages: Range<Int>) -> Bool {
        guard isLeaving.count(in: pages) == 0 else { return false }
        isLeaving.insert(pages)
        return true
    }

    /// The kernel takes the pages away.
    mutating func zap(_ pages: Range<Int>) {
        isLeaving.remove(pages)
        isMapped.remove(pages)
        isStale.remove(pages)
        for page in pages {
            words[page] = 0
            filled[page] = 0
            expected[page] = 0
        }
    }

    /// The daemon has died, and another has its record: what it had half received is stale, and what it did beyond the record it may
    /// do again.
    mutating func daemonDied(_ recorded: borrowing PageBitmap) {
        for page in 0..<layout.totalPages where !recorded.contains(page) {
            if isGivenUp.contains(page) { isUncertain.insert(page) }
            guard filled[page] > 0, !isMapped.contains(page) else { continue }
            filled[page] = 0
            isStale.insert(page)
        }
        isInstalled.removeAll()
        isGivenUp.removeAll()
    }

    /// The ranges are unregistered.
    mutating func release() { isReleased = true }

    // MARK: At the end

    /// Reads every page as the guest would find it now.
    mutating func readEverything() {
        for page in 0..<layout.totalPages {
            _ = access(page, writing: nil)
        }
    }

    /// After a lost link: nothing half-written anywhere, nothing visible that has not come.
    mutating func checkAfterLoss(isSettled: (Int) -> Bool) {
        for page in 0..<layout.totalPages {
            if filled[page] != 0, filled[page] != pageBytes[page] { fail(.halfPageLeft(page: page, bytes: filled[page])) }
            if !isSettled(page), isMapped.contains(page) { fail(.visibleBeforeItCame(page: page)) }
            if !isSettled(page), filled[page] > 0 { fail(.halfPageLeft(page: page, bytes: filled[page])) }
            if isMapped.contains(page) { check(page) }
        }
    }
}
