import PageCore
import PageWire

extension DestinationEngine {
    /// A `pages` header has come: says where its payload goes, and checks everything the peer claims.
    public mutating func place(_ header: FrameHeader, lane: Int) throws(EngineViolation) -> Placement {
        precondition(receptions[lane] == nil, "a lane receives one frame at a time")
        let range = header.range
        guard Int(range.region) < layout.count, layout.contains(range), !range.isEmpty else { throw .outsideRegions(range) }
        guard header.payloadBytes == layout.byteCount(range) else {
            throw .payloadLength(range, bytes: header.payloadBytes)
        }
        if receptions.contains(where: { $0.range.overlaps(range) }) { throw .receivedTwice(range) }
        let known = settled.count(in: layout.sessionPages(range))
        let placement: Placement =
            if known == range.count {
                .discard
            } else if known == 0 && configuration.receivesInPlace[Int(range.region)] && !isCopied(header) {
                .direct(range)
            } else {
                // To be copied, or some of the pages were given up while these bytes were on their way: they must not be written over.
                .slab
            }
        receptions[lane] = Reception(range: range, placement: placement)
        return placement
    }

    /// Whether a frame's pages are to be made by the copy that shows them: not those that are to be here unseen.
    private func isCopied(_ header: FrameHeader) -> Bool {
        guard header.reason == .push, !configuration.copiesPush.isEmpty, configuration.copiesPush[Int(header.range.region)] else {
            return false
        }
        return planner.firstHeld(in: layout.sessionPages(header.range)) == nil
    }

    /// The payload of the frame last placed on `lane` is complete.
    public mutating func arrived<Sink: DestinationSink & ~Copyable>(
        _ header: FrameHeader, lane: Int, _ sink: inout Sink
    ) {
        guard let reception = receptions[lane] else { preconditionFailure("a payload arrives after it was placed") }
        receptions[lane] = nil
        counts.contentBytes += header.payloadBytes
        if header.reason == .push {
            pushedBytes += header.payloadBytes
            creditOutstandingBytes = max(0, creditOutstandingBytes - header.payloadBytes)
        }
        let range = reception.range
        let pages = layout.sessionPages(range)
        if settled.count(in: pages) == 0 {
            settled.insert(pages)
            counts.add(range.count, header.reason)
            install(range, reception, lane, &sink)
            demanded.remove(pages)
            return
        }
        arrivedInPieces(reception, header.reason, lane, &sink)
    }

    /// Some pages of the range were given up on the way: installs the others, and drops those.
    private mutating func arrivedInPieces<Sink: DestinationSink & ~Copyable>(
        _ reception: Reception, _ reason: PageReason, _ lane: Int, _ sink: inout Sink
    ) {
        let region = reception.range.region
        let pages = layout.sessionPages(reception.range)
        var from = pages.lowerBound
        while from < pages.upperBound {
            let isDropped = settled.contains(from)
            let rest = from..<pages.upperBound
            let end = (isDropped ? settled.firstClear(in: rest) : settled.firstSet(in: rest)) ?? pages.upperBound
            let piece = layout.range(region, sessionPages: from..<end)
            if isDropped {
                counts.dropped += piece.count
                if case .direct = reception.placement {
                    sink.erase(piece)
                    sink.record(piece)
                }
                resolveDemanded(piece, &sink)
            } else {
                settled.insert(from..<end)
                counts.add(piece.count, reason)
                install(piece, reception, lane, &sink)
                demanded.remove(from..<end)
            }
            from = end
        }
    }

    private mutating func install<Sink: DestinationSink & ~Copyable>(
        _ piece: PageRange, _ reception: Reception, _ lane: Int, _ sink: inout Sink
    ) {
        switch reception.placement {
        case .direct:
            sink.record(piece)
            installUnheld(piece, &sink)
        case .slab:
            let offset = layout.byteCount(piece.region, pages: piece.first - reception.range.first)
            sink.installFromSlab(piece, lane: lane, byteOffset: offset)
        case .discard:
            preconditionFailure("a discarded frame holds no page that is wanted")
        }
    }

    /// Makes pages visible, all but those whose touch the planner wants to hear of: their bytes stay in mapping B, and the fault
    /// of whoever touches them is answered here, without the wire.
    private mutating func installUnheld<Sink: DestinationSink & ~Copyable>(_ piece: PageRange, _ sink: inout Sink) {
        let pages = layout.sessionPages(piece)
        var from = pages.lowerBound
        while from < pages.upperBound {
            var search = from..<pages.upperBound
            var held = planner.firstHeld(in: search)
            // A thread waits for it already: nothing is to be learned from its touch.
            while let page = held, demanded.contains(page) {
                search = (page + 1)..<pages.upperBound
                held = planner.firstHeld(in: search)
            }
            let end = held ?? pages.upperBound
            if end > from { sink.install(layout.range(piece.region, sessionPages: from..<end)) }
            from = end + (held == nil ? 0 : 1)
        }
    }

    /// The source says that a range reads as zero.
    public mutating func zero<Sink: DestinationSink & ~Copyable>(
        _ range: PageRange, _ sink: inout Sink
    ) throws(EngineViolation) {
        guard Int(range.region) < layout.count, layout.contains(range) else { throw .outsideRegions(range) }
        if receptions.contains(where: { $0.range.overlaps(range) }) { throw .receivedTwice(range) }
        counts.zero += settled.insert(layout.sessionPages(range))
        sink.record(range)
        resolveDemanded(range, &sink)
    }

    /// As `zero`, except for pages that are being received: those arrive in a moment, zeros or not.
    ///
    /// - Parameter settled: told of each piece that is settled now.
    public mutating func zeroUnlessUnderway<Sink: DestinationSink & ~Copyable>(
        _ range: PageRange, _ sink: inout Sink, settled piece: (PageRange, inout Sink) -> Void
    ) throws(EngineViolation) {
        guard Int(range.region) < layout.count, layout.contains(range) else { throw .outsideRegions(range) }
        var first = range.first
        while first < range.end {
            var end = range.end
            var isUnderway = false
            receptions.forEach { reception in
                guard reception.range.region == range.region else { return }
                if reception.range.contains(first) {
                    isUnderway = true
                    end = min(end, reception.range.end)
                } else if reception.range.first > first {
                    end = min(end, reception.range.first)
                }
            }
            if !isUnderway {
                let part = PageRange(region: range.region, first: first, count: end - first)
                try zero(part, &sink)
                piece(part, &sink)
            }
            first = end
        }
    }

    /// The source says that nothing more follows on `lane`. When that is true of all lanes, nothing may be missing.
    public mutating func ended(lane: Int) throws(EngineViolation) {
        endedLanes[lane] = true
        guard endedLanes.allSatisfy({ $0 }), missingPages > 0 else { return }
        throw .endedWithPagesMissing(count: missingPages)
    }
}
