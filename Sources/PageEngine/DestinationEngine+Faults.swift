import PageCore

extension DestinationEngine {
    /// A thread waits for a page.
    ///
    /// - Precondition: the page lies in the layout.
    public mutating func fault<Sink: DestinationSink & ~Copyable>(
        _ region: RegionIndex, _ page: PageIndex, _ sink: inout Sink
    ) {
        faultCount += 1
        let number = layout.sessionPage(region, page)
        if settled.contains(number) {
            // Mapping B may be receiving bytes the guest has given up: they must be erased before anyone sees the page.
            if isBeingOverwritten(region, page) {
                demanded.insert(number)
            } else {
                sink.resolve(region, page)
            }
            return
        }
        guard demanded.insert(number) else { return }
        request(region, page, &sink)
    }

    /// Asks once more for every page that threads wait for: after requests could not be queued, or a link was lost.
    /// Asking twice is harmless, the source sends a page once.
    public mutating func requestAllDemanded<Sink: DestinationSink & ~Copyable>(_ sink: inout Sink) {
        mustRequestAgain = false
        var from = 0
        while let number = demanded.firstSet(in: from..<layout.totalPages) {
            from = number + 1
            if settled.contains(number) { continue }
            let region = layout.region(ofSessionPage: number)
            request(region, layout.range(region, sessionPages: number..<(number + 1)).first, &sink)
            if mustRequestAgain { return }
        }
    }

    private mutating func request<Sink: DestinationSink & ~Copyable>(
        _ region: RegionIndex, _ page: PageIndex, _ sink: inout Sink
    ) {
        let window = configuration.window.window(around: page, in: region, of: layout)
        if !sink.request(window, demanded: page) { mustRequestAgain = true }
    }

    /// Whether a settled page lies where a lane is receiving straight into mapping B. Only a page given up after its
    /// reception began can be both.
    private func isBeingOverwritten(_ region: RegionIndex, _ page: PageIndex) -> Bool {
        for reception in receptions {
            if let reception, case .direct(let range) = reception.placement, range.region == region, range.contains(page) {
                return true
            }
        }
        return false
    }

    /// The guest gave pages up: from now on they read as zero, and whatever comes for them is dropped.
    ///
    /// - Precondition: the range lies in the layout.
    public mutating func removed<Sink: DestinationSink & ~Copyable>(_ range: PageRange, _ sink: inout Sink) {
        let pages = layout.sessionPages(range)
        let fresh = settle(pages)
        guard fresh > 0 else { return }
        counts.removed += fresh
        sink.reportRemoved(range)
        resolveDemanded(range, &sink)
    }

    /// Answers the threads that wait for settled pages of `range`, except where a lane is still writing.
    mutating func resolveDemanded<Sink: DestinationSink & ~Copyable>(_ range: PageRange, _ sink: inout Sink) {
        let pages = layout.sessionPages(range)
        var from = pages.lowerBound
        while let number = demanded.firstSet(in: from..<pages.upperBound) {
            from = number + 1
            let page = layout.range(range.region, sessionPages: number..<(number + 1)).first
            guard settled.contains(number), !isBeingOverwritten(range.region, page) else { continue }
            demanded.remove(number)
            sink.resolve(range.region, page)
        }
    }
}
