import PageCore
import PageEngine
import PageTransport
import PageWire

/// What a source with RDMA tells its destination once the memory is final: which memory may be read, then which pages
/// of it are zero. The rest is the destination's to fetch; no processor of this host moves a page.
struct SourceAnnouncement: ~Copyable {
    /// Bytes looked through in one turn, so that control frames never wait for long.
    private static let bytesPerTurn = 1 << 20
    /// Bytes looked through between two reports of it.
    private static let bytesPerReport = 4 << 20
    /// Frames left free for others.
    private static let spareSlots = 16

    private let layout: RegionLayout
    private let keys: [RegionKey]
    private var toldKeys = 0
    private var hasToldAll = false
    /// The key whose pages are looked through, and the next page of it.
    private var number = 0
    private var page: PageIndex = 0
    private var unreportedBytes = 0
    /// A zero run found and not told yet.
    private var pending: PageRange?
    private(set) var isDone = false

    init(layout: RegionLayout, keys: [RegionKey]) {
        self.layout = layout
        self.keys = keys
        page = keys.first?.range.first ?? 0
    }

    /// Tells as much as there is room for now.
    ///
    /// - Returns: whether there is more to do at once.
    mutating func proceed<Transport: PageTransport & ~Copyable, Content: ContentClassifier & ~Copyable>(
        _ transport: inout Transport, _ memory: inout Content
    ) -> Bool {
        guard tellKeys(&transport) else { return false }
        guard !isDone else { return false }
        var budget = Self.bytesPerTurn
        while budget > 0, number < keys.count {
            guard tellPending(&transport), transport.freeSlots(.urgent) > Self.spareSlots else { return false }
            budget -= scan(&memory)
        }
        guard tellPending(&transport), report(&transport) else { return false }
        isDone = number == keys.count
        return !isDone
    }

    private mutating func tellKeys<Transport: PageTransport & ~Copyable>(_ transport: inout Transport) -> Bool {
        while toldKeys < keys.count {
            let some = keys[toldKeys..<min(keys.count, toldKeys + RegionKeys.mostKeys)]
            let payload = RegionKeys.encode(some)
            guard transport.submit(FrameHeader(.regionKeys, payloadBytes: payload.count), copying: payload, lane: .urgent) else {
                return false
            }
            toldKeys += some.count
        }
        if !hasToldAll { hasToldAll = transport.submit(FrameHeader(.regionKeysEnd), lane: .urgent) }
        return hasToldAll
    }

    /// Looks at the next pages.
    ///
    /// - Returns: their bytes.
    private mutating func scan<Content: ContentClassifier & ~Copyable>(_ memory: inout Content) -> Int {
        let whole = keys[number].range
        let shift = layout[whole.region].pageSize.shift
        let rest = PageRange(region: whole.region, first: page, count: whole.end - page)
        let most = max(1, min(rest.count, (256 << 10) >> shift))
        let run = memory.classify(rest, mostScanned: most)
        let part = PageRange(region: rest.region, first: page, count: min(run.count, rest.count))
        if run.kind == .zero { pending = part }
        page = part.end
        unreportedBytes += part.count << shift
        if page == whole.end { nextKey() }
        return part.count << shift
    }

    private mutating func nextKey() {
        number += 1
        if number < keys.count { page = keys[number].range.first }
    }

    private mutating func tellPending<Transport: PageTransport & ~Copyable>(_ transport: inout Transport) -> Bool {
        guard let range = pending else { return true }
        guard transport.submit(FrameHeader(.zeroPages, reason: .push, range: range), lane: .urgent) else { return false }
        pending = nil
        return true
    }

    /// Says how far it has come: pages in front of that are worth fetching unasked.
    private mutating func report<Transport: PageTransport & ~Copyable>(_ transport: inout Transport) -> Bool {
        let isOver = number == keys.count
        guard unreportedBytes >= Self.bytesPerReport || (isOver && !isDone) else { return true }
        let position: PageRange
        if isOver {
            let last = RegionIndex(layout.count - 1)
            position = layout.wholeRange(last)
        } else {
            position = PageRange(region: keys[number].range.region, first: 0, count: page)
        }
        guard transport.submit(FrameHeader(.scanned, range: position), lane: .urgent) else { return false }
        unreportedBytes = 0
        return true
    }
}
