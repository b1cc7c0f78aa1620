import PageCore
import PageEngine
import PageTransport
import PageWire

/// Who moves the pages nobody asked for, over RDMA.
public enum PushMethod: String, Sendable, CaseIterable {
    /// The destination reads them, as it does demanded ones.
    case read
    /// The source writes them, as the destination asks.
    case write
}

/// The destination's own supply of pages over RDMA: it plays the source's part, decides what comes next, and fetches it.
///
/// `planner` is the very state machine that orders pages on a source: demands first, windows behind them, then the push
/// under credit. A page it has handed out counts as left; a piece on its way holds a slot until it is installed.
struct PageFetcher: ~Copyable {
    /// A piece on its way.
    struct Piece: Sendable {
        var header: FrameHeader
        var isGranted: Bool
    }

    let registration: DestinationRegistration
    let method: PushMethod
    var planner: SourceEngine
    var keys: RemoteKeys
    private var pieces: [Piece?]
    private var free: BoundedQueue<Int>
    /// Slots whose pages have come and still wait in their slab for the kernel.
    private(set) var lingering: [Int] = []
    /// The source has looked through the session pages below this for zeros.
    var scannedPages = 0
    /// Slots kept for demands and windows.
    private static let slotsForDemands = 8

    init(layout: RegionLayout, registration: DestinationRegistration, method: PushMethod) {
        self.registration = registration
        self.method = method
        var configuration = SourceEngine.Configuration()
        configuration.extentBytes = registration.extentBytes
        planner = SourceEngine(layout: layout, configuration: configuration)
        keys = RemoteKeys(layout: layout, registration: registration)
        pieces = Array(repeating: nil, count: registration.slotCount)
        free = BoundedQueue(capacity: registration.slotCount)
        for slot in 0..<registration.slotCount { _ = free.append(slot) }
        lingering.reserveCapacity(registration.slotCount)
    }

    /// Where bytes lie that were fetched into a slot's slab.
    func slabAddress(_ slot: Int, _ byteOffset: Int) -> UInt { registration.slabs.address(slot, byteOffset) }

    var hasSlot: Bool { !free.isEmpty }
    var hasSlotForPush: Bool { free.count > Self.slotsForDemands }

    /// Whether there is more to fetch than demands, as far as credit and slots go.
    func hasUndemanded(isPushResting: Bool) -> Bool {
        if planner.hasWindows { return true }
        return !isPushResting && planner.creditBytes > 0 && planner.unsentPages > 0 && hasSlotForPush
    }

    /// What is to be fetched next because a thread waits, or lies around such a page.
    mutating func nextUrgent(includingWindows: Bool) -> (PageRange, PageReason)? {
        guard case .pages(let range, let reason)? = planner.nextUrgent(&keys, includingWindows: includingWindows) else { return nil }
        return (range, reason)
    }

    /// What is to be fetched next unasked.
    mutating func nextPush(mostBytes: Int) -> PageRange? {
        guard case .pages(let range, _)? = planner.nextBulk(&keys, mostBytes: mostBytes, before: scannedPages) else { return nil }
        return range
    }

    // MARK: Slots

    /// - Precondition: there is one.
    mutating func take(_ header: FrameHeader, isGranted: Bool) -> Int {
        guard let slot = free.popFirst() else { preconditionFailure("a slot was free") }
        pieces[slot] = Piece(header: header, isGranted: isGranted)
        return slot
    }

    /// The piece on its way in a slot; nil for what the peer made up.
    func piece(_ slot: Int) -> Piece? { pieces.indices.contains(slot) ? pieces[slot] : nil }

    /// The piece has come. Its slot is free again unless its slab is in use.
    mutating func finished(_ slot: Int, lingers: Bool) {
        pieces[slot] = nil
        if lingers { lingering.append(slot) } else { _ = free.append(slot) }
    }

    /// Frees the slots whose slabs are in use no more.
    mutating func freeLingering(_ isInUse: (Int) -> Bool) {
        guard !lingering.isEmpty else { return }
        var kept = 0
        for slot in lingering {
            if isInUse(slot) {
                lingering[kept] = slot
                kept += 1
            } else {
                _ = free.append(slot)
            }
        }
        lingering.removeLast(lingering.count - kept)
    }
}
