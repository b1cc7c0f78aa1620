import PageCore

extension DestinationEngine {
    /// Pulls these session pages, in this order, before anybody asks for them; behind every demand.
    ///
    /// - Precondition: the runs lie inside the layout.
    public mutating func replay(_ runs: [Range<Int>]) { replays.load(runs, layout) }

    /// Asks for the next pages of a replayed trace, as far as there is room. Also while threads wait: the source answers those first,
    /// whatever it was asked before, and a replay that pauses is overtaken by its guest, fault after fault.
    mutating func askForReplay<Sink: DestinationSink & ~Copyable>(_ sink: inout Sink) {
        while let run = replays.due(
            settled: settled, pageBytes: { [layout] in layout.byteCount(layout.region(ofSessionPage: $0), pages: 1) })
        {
            guard sink.prefetch(layout.range(layout.region(ofSessionPage: run.lowerBound), sessionPages: run), stride: 0) else { return }
            replays.asked()
        }
    }
}
