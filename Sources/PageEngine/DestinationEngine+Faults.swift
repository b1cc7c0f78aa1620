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
                if let prefetch = planner.touched(number, settled: settled) { ask(prefetch, &sink) }
            }
            return
        }
        guard demanded.insert(number) else { return }
        missCount += 1
        // Of a trace that is being replayed the neighbours are known: what a window would bring besides is in its way.
        let window = replays.covers(number) ? PlannedWindow(pages: number..<(number + 1)) : planner.missed(number, settled: settled)
        if !sink.request(layout.range(region, sessionPages: window.pages), demanded: page, stride: window.stride) {
            refusedRequests.insert(number)
        }
    }

    /// Asks for pages nobody waits for; a newer wish takes the place of one that found no room.
    mutating func ask<Sink: DestinationSink & ~Copyable>(_ window: PlannedWindow, _ sink: inout Sink) {
        let region = layout.region(ofSessionPage: window.pages.lowerBound)
        let isQueued = sink.prefetch(layout.range(region, sessionPages: window.pages), stride: window.stride)
        refusedPrefetch = isQueued ? nil : window
    }

    /// Asks for the pages whose request found no room, each once, as far as there is room now.
    mutating func repeatRefusedRequests<Sink: DestinationSink & ~Copyable>(_ sink: inout Sink) {
        var from = 0
        while let number = refusedRequests.firstSet(in: from..<layout.totalPages) {
            from = number + 1
            if demanded.contains(number), !settled.contains(number) {
                let region = layout.region(ofSessionPage: number)
                let page = layout.range(region, sessionPages: number..<(number + 1)).first
                // Its window was planned when it was first wanted; by now only the page itself is sure to be.
                guard sink.request(PageRange(region: region, first: page, count: 1), demanded: page, stride: 0) else { return }
            }
            refusedRequests.remove(number)
        }
    }

    /// Whether a settled page lies where a lane is receiving straight into mapping B. Only a page given up after its
    /// reception began can be both.
    private func isBeingOverwritten(_ region: RegionIndex, _ page: PageIndex) -> Bool {
        receptions.contains { reception in
            if case .direct(let range) = reception.placement { range.region == region && range.contains(page) } else { false }
        }
    }

    /// The guest gave pages up: from now on they read as zero, and whatever comes for them is dropped.
    ///
    /// - Precondition: the range lies in the layout.
    public mutating func removed<Sink: DestinationSink & ~Copyable>(_ range: PageRange, _ sink: inout Sink) {
        let pages = layout.sessionPages(range)
        let fresh = settled.insert(pages)
        guard fresh > 0 else { return }
        counts.removed += fresh
        recordRemoved(range, &sink)
        // Told at `retry`, behind requests and in runs: a flood of removals must not take the room of demands.
        unreportedRemovals.insert(pages)
        resolveDemanded(range, &sink)
    }

    /// Pages given up are on record at once, except where a lane is still writing: those once they are erased.
    private mutating func recordRemoved<Sink: DestinationSink & ~Copyable>(_ range: PageRange, _ sink: inout Sink) {
        guard receptions.contains(where: { $0.range.overlaps(range) }) else { return sink.record(range) }
        for page in range.first..<range.end where !isBeingOverwritten(range.region, page) {
            sink.record(PageRange(region: range.region, first: page, count: 1))
        }
    }

    /// Tells the source of removals, in runs as long as they have become, as far as there is room now.
    mutating func reportRemovals<Sink: DestinationSink & ~Copyable>(_ sink: inout Sink) {
        var from = 0
        while let first = unreportedRemovals.firstSet(in: from..<layout.totalPages) {
            let region = layout.region(ofSessionPage: first)
            let regionEnd = layout.sessionPages(layout.wholeRange(region)).upperBound
            let end = unreportedRemovals.firstClear(in: first..<regionEnd) ?? regionEnd
            guard sink.reportRemoved(layout.range(region, sessionPages: first..<end)) else { return }
            unreportedRemovals.remove(first..<end)
            from = end
        }
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
