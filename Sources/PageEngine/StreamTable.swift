import PageCore

/// The threads that go through memory in steps of one size, as far as they are known: where each is, how far ahead of it pages
/// have been asked for, and how large its next window is. The one not heard of for longest makes room for a new one.
struct StreamTable: Sendable {
    private static let capacity = 32
    /// Pages of a new stream's first window.
    private static let firstPages = 8
    private static let none = -1

    private struct Stream: Sendable {
        /// The last page known to be needed.
        var position = 0
        var stride = 0
        /// The next page on its way that was not asked for.
        var ahead = 0
        /// The page whose touch asks for the next window; stays invisible when it comes.
        var marker = StreamTable.none
        /// Steps of the last window.
        var steps = 0
        /// When it was last heard of; 0: never used.
        var clock = 0

        /// How many steps from the position to `page`; nil when it is not on the way, or behind.
        func steps(to page: Int) -> Int? {
            let distance = page - position
            guard distance % stride == 0, distance / stride > 0 else { return nil }
            return distance / stride
        }

        var stepsAsked: Int { (ahead - position) / stride }
    }

    private var streams = ContiguousArray(repeating: Stream(), count: StreamTable.capacity)
    /// What every event asks of every stream, apart from the rest: the pages among which it may go on, and its marker.
    private var reaches = ContiguousArray(repeating: 0..<0, count: StreamTable.capacity)
    private var markers = ContiguousArray(repeating: StreamTable.none, count: StreamTable.capacity)

    // MARK: Events

    /// - Returns: the window of a missed page that continues a stream, or nil when it continues none.
    mutating func missed(
        _ page: Int, clock: Int, bounds: Range<Int>, mostPages: Int, settled: borrowing PageBitmap
    ) -> PlannedWindow? {
        guard let index = match(page) else { return nil }
        var stream = streams[index]
        let steps = stream.steps(to: page) ?? 0
        let asked = stream.stepsAsked
        let marker = stream.marker == Self.none ? nil : stream.steps(to: stream.marker)
        stream.position = page
        stream.clock = clock
        defer { store(stream, index) }
        if steps < asked {
            // It comes already, and too late: the thread is as fast as the link. More is asked for when it has used half.
            if let marker, steps < marker { return PlannedWindow(pages: page..<(page + 1)) }
            stream.steps = min(2 * stream.steps, mostPages)
        } else if let marker, steps > marker {
            // The marker was passed by: the stream leaves pages out, or is none.
            stream.steps /= 2
            if stream.steps < 2 {
                stream = Stream()
                return nil
            }
        } else {
            stream.steps = min(2 * stream.steps, mostPages)
        }
        return extend(&stream, around: page, bounds, settled)
    }

    /// - Returns: what lies ahead of a touched page that was a stream's marker, or nil when it was none.
    mutating func touched(
        _ page: Int, clock: Int, bounds: Range<Int>, mostPages: Int, settled: borrowing PageBitmap
    ) -> PlannedWindow? {
        guard let index = markers.firstIndex(of: page) else { return nil }
        var stream = streams[index]
        stream.position = page
        stream.clock = clock
        stream.steps = min(2 * stream.steps, mostPages)
        defer { store(stream, index) }
        let window = extend(&stream, around: nil, bounds, settled)
        return window.pages.isEmpty ? nil : window
    }

    /// A stream has come to `page` in steps of `stride`.
    ///
    /// - Returns: its first window, the page included.
    mutating func begin(
        _ page: Int, stride: Int, clock: Int, bounds: Range<Int>, mostPages: Int, settled: borrowing PageBitmap
    ) -> PlannedWindow {
        var stream = Stream()
        stream.position = page
        stream.stride = stride
        stream.ahead = page + stride
        stream.steps = min(Self.firstPages, mostPages)
        stream.clock = clock
        let oldest = streams.indices.min { streams[$0].clock < streams[$1].clock } ?? 0
        defer { store(stream, oldest) }
        return extend(&stream, around: page, bounds, settled)
    }

    func firstHeld(in pages: Range<Int>) -> Int? {
        var first: Int?
        for marker in markers where pages.contains(marker) { first = min(first ?? .max, marker) }
        return first
    }

    // MARK: Parts

    /// The stream that a page continues: it lies where pages were asked for, or little further.
    private func match(_ page: Int) -> Int? {
        var best: Int?
        for index in reaches.indices where reaches[index].contains(page) && streams[index].steps(to: page) != nil {
            // Of two, the one heard of last.
            if let known = best, streams[known].clock >= streams[index].clock { continue }
            best = index
        }
        return best
    }

    private mutating func store(_ stream: Stream, _ index: Int) {
        streams[index] = stream
        markers[index] = stream.marker
        let slack = stream.stride.magnitude == 1 ? max(8, stream.steps / 2) : 2
        let end = stream.ahead + slack * stream.stride
        reaches[index] = stream.clock == 0 ? 0..<0 : min(stream.position, end)..<(max(stream.position, end) + 1)
    }

    /// Moves the end of what is asked for `steps` further, and the marker with it.
    ///
    /// - Parameter page: a missed page that the window is to include; nil for what lies ahead only.
    private func extend(
        _ stream: inout Stream, around page: Int?, _ bounds: Range<Int>, _ settled: borrowing PageBitmap
    ) -> PlannedWindow {
        let stride = stream.stride
        if let page, (stream.ahead - page) * stride.signum() <= 0 { stream.ahead = page + stride }
        let reach = stream.ahead + stream.steps * stride
        let window: Range<Int>
        if stride > 0 {
            let from = min(stream.ahead, bounds.upperBound)
            window = from..<max(from, min(bounds.upperBound, reach - stride + 1))
        } else {
            let end = max(stream.ahead + 1, bounds.lowerBound)
            window = min(end, max(bounds.lowerBound, reach - stride))..<end
        }
        stream.marker = Self.none
        guard !window.isEmpty else { return page.map { PlannedWindow(pages: $0..<($0 + 1)) } ?? PlannedWindow(pages: window) }
        // Missed: the thread needs a while for what comes with the page. Touched: it has the last window still in front of it.
        let steps = (window.count - 1) / Int(stride.magnitude)
        let markerSteps = page == nil ? 0 : steps / 4
        let first = stride > 0 ? window.lowerBound : window.upperBound - 1
        stream.marker = first + markerSteps * stride
        stream.ahead = first + (steps + 1) * stride
        guard let page else { return PlannedWindow(pages: window, stride: stride) }
        return PlannedWindow(pages: min(page, window.lowerBound)..<max(page + 1, window.upperBound), stride: stride)
    }
}
