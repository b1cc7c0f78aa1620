import PageCore

/// What a lane is in the middle of receiving.
struct Reception: Sendable {
    var range: PageRange
    var placement: Placement
}

/// What all lanes are in the middle of receiving, by lane. Looking through it costs as much as is being received.
struct Receptions: Sendable {
    /// The most lanes, or slots that play their part.
    static let mostLanes = 64

    private var places: [Reception?]
    /// A bit for each lane that receives.
    private var occupied: UInt64 = 0

    init(laneCount: Int) {
        precondition(laneCount <= Self.mostLanes, "a session has at most \(Self.mostLanes) lanes or slots")
        places = Array(repeating: nil, count: laneCount)
    }

    subscript(_ lane: Int) -> Reception? {
        get { places[lane] }
        set {
            places[lane] = newValue
            if newValue == nil { occupied &= ~(1 << UInt64(lane)) } else { occupied |= 1 << UInt64(lane) }
        }
    }

    func contains(where predicate: (Reception) -> Bool) -> Bool {
        var rest = occupied
        while rest != 0 {
            if let reception = places[rest.trailingZeroBitCount], predicate(reception) { return true }
            rest &= rest - 1
        }
        return false
    }

    func forEach(_ body: (Reception) -> Void) {
        _ = contains { reception in
            body(reception)
            return false
        }
    }
}
