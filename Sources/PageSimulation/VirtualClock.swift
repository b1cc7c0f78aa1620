/// What happens at a moment of virtual time.
enum Event: Sendable {
    case sourceTurn
    case destinationTurn
    /// A direction of the connection with this number may have room for the next piece.
    case link(Int, toDestination: Bool)
    case arrival(Int, toDestination: Bool)
    case processor(Int)
    case guestStops
    /// The guest gives up some pages.
    case removal
    /// The kernel takes away the pages of a removal whose event has been read.
    case zap
    case laneBreaks
    /// The link is lost, and maybe the source's daemon with it; both look for each other.
    case mishap(Int)
    /// Another destination's daemon takes over from the one that died.
    case takesOver
    /// The destination looks for the source, and says what it has: the attempt with this number.
    case seeks(Int)
    /// The source has heard all of an attempt, the destination that it is linked.
    case sourceLinks(Int)
    case destinationLinks(Int)
    /// The destination gives an attempt up of which it has not heard.
    case attemptEnds(Int)
    /// The network falls silent, in one direction or both, and carries again.
    case silence(Int)
    case heals(Int)
    /// One side has heard nothing for too long.
    case losesPatience(Int, isSource: Bool)
    /// One side learns that the other has closed the connection with this number.
    case closureHeard(Int, isSource: Bool)
}

/// Events in order of virtual time, those of one moment in the order they were scheduled. A binary heap.
struct VirtualClock: ~Copyable {
    private struct Entry {
        var time: Int
        var order: Int
        var event: Event

        func isBefore(_ other: Entry) -> Bool { time < other.time || (time == other.time && order < other.order) }
    }

    private var heap: ContiguousArray<Entry> = []
    private var nextOrder = 0
    private(set) var now = 0

    init() { heap.reserveCapacity(256) }

    /// Schedules an event at `time`, which is not in the past.
    mutating func schedule(_ event: Event, at time: Int) {
        precondition(time >= now, "time runs forward")
        let entry = Entry(time: time, order: nextOrder, event: event)
        nextOrder += 1
        var hole = heap.count
        heap.append(entry)
        while hole > 0 {
            let parent = (hole - 1) / 2
            guard entry.isBefore(heap[parent]) else { break }
            heap[hole] = heap[parent]
            hole = parent
        }
        heap[hole] = entry
    }

    /// Takes the next event and moves the time to it.
    mutating func next() -> Event? {
        guard let first = heap.first, let last = heap.popLast() else { return nil }
        now = first.time
        if heap.isEmpty { return first.event }
        var hole = 0
        while true {
            var child = 2 * hole + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1].isBefore(heap[child]) { child += 1 }
            guard heap[child].isBefore(last) else { break }
            heap[hole] = heap[child]
            hole = child
        }
        heap[hole] = last
        return first.event
    }
}
