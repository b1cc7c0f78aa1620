import PageCore
import PageEngine
import PageWire

/// Memory for a source engine, and what the protocol says of everything that leaves it: each page once, demand before
/// window before push, no push beyond the credit.
struct SourceModel: ~Copyable {
    enum Content: Sendable { case hole, zero, data }

    /// Answers the engine from a list of contents, one a page.
    struct Classifier: ContentClassifier {
        let layout: RegionLayout
        let contents: [Content]
        var scanned = 0

        mutating func classify(_ range: PageRange, mostScanned: Int) -> ContentRun {
            let pages = layout.sessionPages(range)
            let kind = contents[pages.lowerBound] == .data
            var count = 0
            for page in pages.prefix(mostScanned) {
                guard (contents[page] == .data) == kind else { break }
                count += 1
            }
            scanned += count
            return ContentRun(kind ? .data : .zero, count: count)
        }

        mutating func firstHole(in range: PageRange) -> PageRange? {
            let pages = layout.sessionPages(range)
            guard let first = pages.first(where: { contents[$0] == .hole }) else { return nil }
            let end = (first..<pages.upperBound).first { contents[$0] != .hole } ?? pages.upperBound
            return layout.range(range.region, sessionPages: first..<end)
        }
    }

    var engine: SourceEngine
    var classifier: Classifier
    let layout: RegionLayout
    private(set) var log: [SourceCommand] = []
    private(set) var faults: [String] = []
    private var hasLeft: [Bool]
    private var isGone: [Bool]
    private(set) var waiting: [Int] = []
    private var credit = 0
    private var orderMatters: Bool

    init(_ layout: RegionLayout, contents: [Content], configuration: SourceEngine.Configuration, orderMatters: Bool = true) {
        engine = SourceEngine(layout: layout, configuration: configuration)
        classifier = Classifier(layout: layout, contents: contents)
        self.layout = layout
        self.orderMatters = orderMatters
        hasLeft = Array(repeating: false, count: layout.totalPages)
        isGone = hasLeft
    }

    mutating func request(_ page: Int, window: Range<Int>) throws(EngineViolation) {
        let region = layout.region(ofSessionPage: page)
        let index = layout.range(region, sessionPages: page..<(page + 1)).first
        try engine.request(window: layout.range(region, sessionPages: window), demanded: index)
        if !hasLeft[page], !isGone[page], !waiting.contains(page) { waiting.append(page) }
    }

    mutating func grant(_ bytes: Int) throws(EngineViolation) {
        try engine.credit(bytes: UInt64(bytes))
        credit += bytes
    }

    mutating func removed(_ range: PageRange) throws(EngineViolation) {
        try engine.removed(range)
        for page in layout.sessionPages(range) {
            isGone[page] = true
            waiting.removeAll { $0 == page }
        }
    }

    /// - Returns: whether something left.
    @discardableResult
    mutating func pullUrgent(includingWindows: Bool) -> Bool {
        guard let command = engine.nextUrgent(&classifier, includingWindows: includingWindows) else {
            if !waiting.isEmpty, engine.isAllSent || isStarted { faults.append("demands wait and the urgent lane gets nothing") }
            return false
        }
        note(command, isUrgent: true)
        return true
    }

    @discardableResult
    mutating func pullBulk() -> Bool {
        guard let command = engine.nextBulk(&classifier) else { return false }
        note(command, isUrgent: false)
        return true
    }

    var isStarted = false

    mutating func start() {
        engine.start()
        isStarted = true
    }

    private mutating func note(_ command: SourceCommand, isUrgent: Bool) {
        log.append(command)
        switch command {
        case .pages(let range, let reason):
            for page in layout.sessionPages(range) {
                if hasLeft[page] { faults.append("page \(page) leaves twice") }
                if isGone[page] { faults.append("page \(page) leaves though it was given up") }
                if classifier.contents[page] != .data { faults.append("page \(page) is sent with its bytes and is zero") }
            }
            noteReason(range, reason, isUrgent)
            if reason == .push {
                credit -= range.count << layout[range.region].pageSize.shift
                if credit < 0 { faults.append("the push exceeds its credit by \(-credit) bytes") }
            }
            for page in layout.sessionPages(range) { hasLeft[page] = true }
        case .zero(let range, let reason):
            for page in layout.sessionPages(range) where classifier.contents[page] == .data {
                faults.append("page \(page) is sent as zero and is not")
            }
            noteReason(range, reason, isUrgent)
            for page in layout.sessionPages(range) { hasLeft[page] = true }
        }
        waiting.removeAll { hasLeft[$0] }
        if engine.creditBytes != credit { faults.append("the engine counts \(engine.creditBytes) bytes of credit, not \(credit)") }
    }

    private mutating func noteReason(_ range: PageRange, _ reason: PageReason, _ isUrgent: Bool) {
        if (reason == .push) == isUrgent { faults.append("\(reason) on the wrong lane") }
        if isUrgent, let first = waiting.first {
            let pages = layout.sessionPages(range)
            if reason != .demand { faults.append("a window goes before the demand of page \(first)") }
            if orderMatters, pages != first..<(first + 1) { faults.append("pages \(range) go before the older demand of page \(first)") }
            if !waiting.contains(pages.lowerBound) || pages.count != 1 {
                faults.append("pages \(range) go as a demand and were not asked for")
            }
        } else if reason == .demand {
            faults.append("pages \(range) go as a demand and nobody waits")
        }
    }

    /// Sends everything, then checks that everything has left and is counted.
    mutating func drain() throws(EngineViolation) {
        start()
        var rounds = 0
        while !engine.isAllSent, rounds < 100 * layout.totalPages {
            rounds += 1
            while pullUrgent(includingWindows: true) {}
            if !pullBulk() { try grant(2 << 20) }
        }
        if !engine.isAllSent { faults.append("the source never ends") }
        for page in 0..<layout.totalPages where !hasLeft[page] && !isGone[page] { faults.append("page \(page) never left") }
        let counts = engine.counts
        if counts.demand + counts.window + counts.push + counts.zero + counts.removed != layout.totalPages {
            faults.append("the counts do not add up: \(counts)")
        }
        if pullUrgent(includingWindows: true) || pullBulk() { faults.append("something leaves after everything has left") }
    }
}
