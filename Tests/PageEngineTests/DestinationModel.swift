import PageCore
import PageEngine
import PageWire

/// What the invariants say of a destination, kept apart from the engine: guest memory page by page, and a note of
/// everything the engine wished that no kernel and no guest could bear.
struct DestinationModel: ~Copyable, DestinationSink {
    enum Bytes { case empty, partial, whole }

    let layout: RegionLayout
    /// What mapping B holds.
    var bytes: [Bytes]
    /// Pages whose bytes lie whole in a lane's slab.
    var inSlab: [Bool]
    var isRemoved: [Bool]
    var isZero: [Bool]
    var isArrived: [Bool]
    /// Lanes receiving straight into mapping B over the page.
    var writers: [Int]
    var isWaiting: [Bool]
    /// What a daemon that takes over would believe.
    var isRecorded: [Bool]
    var installs: [Int]
    var resolves: [Int]
    var requests: [Int]
    var granted = 0
    var reports = 0
    var removedReports: [PageRange] = []
    var faults: [String] = []
    /// Regions whose memory was let go.
    var released: Set<RegionIndex> = []

    /// Frames that still fit, over all kinds.
    var room = Int.max
    var acceptsRequests = true
    var acceptsCredit = true
    var acceptsRemoved = true
    var acceptsReport = true

    init(_ layout: RegionLayout) {
        self.layout = layout
        let none = Array(repeating: 0, count: layout.totalPages)
        let no = Array(repeating: false, count: layout.totalPages)
        bytes = Array(repeating: .empty, count: layout.totalPages)
        (inSlab, isRemoved, isZero, isArrived, isWaiting, isRecorded) = (no, no, no, no, no, no)
        (writers, installs, resolves, requests) = (none, none, none, none)
    }

    func isSettled(_ page: Int) -> Bool { isRemoved[page] || isZero[page] || isArrived[page] }

    var settledCount: Int { (0..<layout.totalPages).count { isSettled($0) } }

    private mutating func complain(_ text: String) { faults.append(text) }

    private mutating func touch(_ region: RegionIndex) {
        if released.contains(region) { complain("region \(region) is touched after it was let go") }
    }

    // MARK: What the engine wishes

    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool {
        if !layout.contains(window) { complain("the prefetch \(window) leaves its region") }
        return takeRoom()
    }

    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool {
        let page = layout.sessionPage(window.region, demanded)
        if !window.contains(demanded) { complain("the window \(window) lacks its page \(demanded)") }
        if !layout.contains(window) { complain("the window \(window) leaves its region") }
        if !isWaiting[page] { complain("page \(page) is requested and nobody waits") }
        if isSettled(page) { complain("page \(page) is requested though it is settled") }
        guard acceptsRequests, takeRoom() else { return false }
        requests[page] += 1
        return true
    }

    private mutating func takeRoom() -> Bool {
        guard room > 0 else { return false }
        room -= 1
        return true
    }

    private mutating func makeVisible(_ page: Int) {
        installs[page] += 1
        if installs[page] > 1 { complain("page \(page) is installed twice") }
        if resolves[page] > 0 { complain("page \(page) is installed after it was resolved") }
        if isRemoved[page] { complain("page \(page) is installed though the guest gave it up") }
        if isZero[page] { complain("page \(page) is installed though it reads as zero") }
        isWaiting[page] = false
    }

    mutating func record(_ range: PageRange) {
        for page in layout.sessionPages(range) {
            if !isSettled(page) { complain("page \(page) is recorded before its content is decided") }
            if bytes[page] == .partial || writers[page] > 0 { complain("page \(page) is recorded while it is written") }
            if !isArrived[page], bytes[page] != .empty { complain("page \(page) reads as zero and is recorded with late bytes") }
            isRecorded[page] = true
        }
    }

    mutating func install(_ range: PageRange) {
        touch(range.region)
        for page in layout.sessionPages(range) {
            if !isRecorded[page] { complain("page \(page) is made visible before it is on record") }
            if bytes[page] != .whole { complain("page \(page) is installed with \(bytes[page]) bytes") }
            makeVisible(page)
        }
    }

    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) {
        touch(range.region)
        for page in layout.sessionPages(range) {
            if !inSlab[page] { complain("page \(page) is installed from a slab that does not hold it") }
            inSlab[page] = false
            isRecorded[page] = true
            bytes[page] = .whole
            makeVisible(page)
        }
    }

    mutating func resolve(_ region: RegionIndex, _ number: PageIndex) {
        touch(region)
        let page = layout.sessionPage(region, number)
        resolves[page] += 1
        if !isSettled(page) { complain("page \(page) is resolved before its content is decided") }
        if bytes[page] == .partial { complain("page \(page) is resolved half-written") }
        if writers[page] > 0 { complain("page \(page) is resolved while a lane writes it") }
        if isRemoved[page], !isArrived[page], bytes[page] != .empty {
            complain("page \(page) was given up and is resolved with late bytes")
        }
        if !isWaiting[page] { complain("page \(page) is resolved and nobody waits") }
        isWaiting[page] = false
    }

    mutating func erase(_ range: PageRange) {
        touch(range.region)
        for page in layout.sessionPages(range) {
            if installs[page] > 0 { complain("page \(page) is erased after it was installed") }
            if resolves[page] > 0 && writers[page] == 0 && bytes[page] == .empty { complain("page \(page) is erased for nothing") }
            bytes[page] = .empty
        }
    }

    mutating func grantCredit(bytes: Int) -> Bool {
        guard acceptsCredit, takeRoom() else { return false }
        granted += bytes
        return true
    }

    mutating func reportRemoved(_ range: PageRange) -> Bool {
        guard acceptsRemoved, takeRoom() else { return false }
        removedReports.append(range)
        return true
    }

    mutating func reportAllResident() -> Bool {
        if settledCount < layout.totalPages { complain("all pages are reported in, and some are missing") }
        if writers.contains(where: { $0 > 0 }) { complain("all pages are reported in while a lane still writes") }
        if bytes.contains(.partial) { complain("all pages are reported in and one is half-written") }
        guard acceptsReport else { return false }
        reports += 1
        if reports > 1 { complain("all pages are reported in twice") }
        return true
    }
}

/// A destination engine beside its model: every event goes to both, and is followed by a look at the invariants.
struct CheckedDestination: ~Copyable {
    var engine: DestinationEngine
    var model: DestinationModel
    private var placements: [Placement?]
    private var headers: [FrameHeader?]

    init(_ layout: RegionLayout, receivesInPlace: [Bool], copiesPush: [Bool] = [], laneCount: Int, windowBytes: Int = 8 << 10) {
        var configuration = DestinationEngine.Configuration(receivesInPlace: receivesInPlace, laneCount: laneCount)
        configuration.copiesPush = copiesPush
        configuration.window = WindowPolicy(windowBytes: windowBytes)
        engine = DestinationEngine(layout: layout, configuration: configuration)
        model = DestinationModel(layout)
        placements = Array(repeating: nil, count: laneCount)
        headers = Array(repeating: nil, count: laneCount)
    }

    mutating func fault(_ region: RegionIndex, _ page: PageIndex) {
        model.isWaiting[engine.layout.sessionPage(region, page)] = true
        engine.fault(region, page, &model)
        check()
    }

    mutating func place(_ range: PageRange, reason: PageReason, lane: Int) throws(EngineViolation) {
        let bytes = range.count << engine.layout[range.region].pageSize.shift
        let header = FrameHeader(.pages, reason: reason, range: range, payloadBytes: bytes)
        let placement = try engine.place(header, lane: lane)
        placements[lane] = placement
        headers[lane] = header
        if case .direct(let target) = placement {
            if model.released.contains(target.region) { model.faults.append("region \(target.region) is received after it was let go") }
            for page in engine.layout.sessionPages(target) {
                if model.isSettled(page) { model.faults.append("page \(page) is written over though it is settled") }
                model.bytes[page] = .partial
                model.writers[page] += 1
            }
        }
        check()
    }

    mutating func arrived(lane: Int) {
        guard let header = headers[lane], let placement = placements[lane] else { return }
        headers[lane] = nil
        placements[lane] = nil
        for page in engine.layout.sessionPages(header.range) {
            switch placement {
            case .direct:
                model.bytes[page] = .whole
                model.writers[page] -= 1
            case .slab:
                model.inSlab[page] = true
            case .discard:
                break
            }
            if !model.isSettled(page) { model.isArrived[page] = true }
        }
        engine.arrived(header, lane: lane, &model)
        for page in engine.layout.sessionPages(header.range) { model.inSlab[page] = false }
        check()
    }

    mutating func lost(lane: Int) {
        if let header = headers[lane], case .direct = placements[lane] {
            for page in engine.layout.sessionPages(header.range) { model.writers[page] -= 1 }
        }
        headers[lane] = nil
        placements[lane] = nil
        engine.laneLost(lane: lane, &model)
        check()
    }

    mutating func zero(_ range: PageRange) throws(EngineViolation) {
        for page in engine.layout.sessionPages(range) where !model.isSettled(page) { model.isZero[page] = true }
        try engine.zero(range, &model)
        check()
    }

    mutating func removed(_ range: PageRange) {
        for page in engine.layout.sessionPages(range) where !model.isSettled(page) { model.isRemoved[page] = true }
        engine.removed(range, &model)
        check()
    }

    /// Lets a region's memory go, unless it is being received there.
    ///
    /// - Returns: whether it was let go.
    mutating func release(_ region: RegionIndex) -> Bool {
        guard !engine.isReceivingInPlace(into: region) else { return false }
        model.released.insert(region)
        for page in engine.layout.sessionPages(engine.layout.wholeRange(region)) {
            if model.writers[page] > 0 { model.faults.append("page \(page) is let go while a lane writes it") }
            if model.isWaiting[page] { model.faults.append("page \(page) is let go while a thread waits for it") }
        }
        check()
        return true
    }

    mutating func ended(lane: Int) throws(EngineViolation) { try engine.ended(lane: lane) }

    mutating func retry() {
        engine.retry(&model)
        check()
    }

    /// What holds after every step, whatever it was.
    private mutating func check() {
        let counts = engine.counts
        let inside = counts.demand + counts.window + counts.push + counts.zero + counts.removed
        if inside != model.settledCount { model.faults.append("the counts say \(inside) pages, \(model.settledCount) are settled") }
        if engine.missingPages != engine.layout.totalPages - model.settledCount { model.faults.append("the missing pages are miscounted") }
        for page in 0..<engine.layout.totalPages {
            if model.isWaiting[page], model.isSettled(page), model.writers[page] == 0 {
                model.faults.append("a thread still waits for page \(page), which is settled")
            }
            if model.isSettled(page), model.writers[page] == 0, !model.isRecorded[page] {
                model.faults.append("page \(page) is settled and not on record")
            }
            if model.isArrived[page], model.installs[page] != 1 { model.faults.append("page \(page) arrived and is not installed") }
        }
    }
}
