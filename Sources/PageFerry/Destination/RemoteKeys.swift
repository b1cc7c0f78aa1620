import PageCore
import PageEngine
import PageTransport
import PageWire

/// Where the source's pages lie for RDMA, by region and first page: what fetching needs to know of contents.
struct RemoteKeys: ~Copyable, ContentClassifier {
    /// Keys a source may tell; more are a sign of a hostile one.
    private static let mostKeys = 1 << 20

    private let layout: RegionLayout
    private let registration: DestinationRegistration
    private var keys: [[RegionKey]]
    private var count = 0

    init(layout: RegionLayout, registration: DestinationRegistration) {
        self.layout = layout
        self.registration = registration
        keys = Array(repeating: [], count: layout.count)
    }

    /// Takes what a `regionKeys` frame tells: ranges inside the layout, in order, none twice.
    mutating func add(_ some: [RegionKey]) throws(EngineViolation) {
        for key in some {
            guard Int(key.range.region) < layout.count, layout.contains(key.range), count < Self.mostKeys else {
                throw .outsideRegions(key.range)
            }
            if let last = keys[Int(key.range.region)].last, key.range.first < last.range.end { throw .receivedTwice(key.range) }
            keys[Int(key.range.region)].append(key)
            count += 1
        }
    }

    /// The ranges without a key: they read as zero.
    var unnamed: [PageRange] {
        var ranges: [PageRange] = []
        for region in 0..<RegionIndex(layout.count) {
            var first = 0
            for key in keys[Int(region)] {
                if key.range.first > first { ranges.append(PageRange(region: region, first: first, count: key.range.first - first)) }
                first = key.range.end
            }
            let end = layout.wholeRange(region).end
            if end > first { ranges.append(PageRange(region: region, first: first, count: end - first)) }
        }
        return ranges
    }

    /// Where a range lies that `classify` has approved.
    func remote(_ range: PageRange) -> RemoteMemory {
        let key = key(range.region, range.first)
        precondition(key.range.contains(range.first) && range.end <= key.range.end, "a piece lies in one registered run")
        return RemoteMemory(
            address: key.address + UInt64(layout.byteCount(range.region, pages: range.first - key.range.first)), key: key.key)
    }

    /// The last key that begins at or before a page. O(log keys).
    private func key(_ region: RegionIndex, _ page: PageIndex) -> RegionKey {
        let keys = keys[Int(region)]
        var low = 0
        var high = keys.count
        while low < high {
            let middle = (low + high) / 2
            if keys[middle].range.first <= page { low = middle + 1 } else { high = middle }
        }
        precondition(low > 0, "a page that is fetched has a key")
        return keys[low - 1]
    }

    // MARK: What the planner asks

    /// Everything is data, in pieces that both hosts' devices take whole.
    func classify(_ range: PageRange, mostScanned: Int) -> ContentRun {
        let key = key(range.region, range.first)
        let count = min(
            min(range.count, max(1, mostScanned)), key.range.end - range.first,
            registration.contiguous(range.region, from: range.first),
            max(1, registration.extentBytes >> layout.pageShift(range.region)))
        return ContentRun(.data, count: max(1, count))
    }

    /// Holes have no keys, and were settled as zero before anything is fetched.
    func firstHole(in range: PageRange) -> PageRange? { nil }
}
