import PageCore

/// One quantity over the rounds of a run.
public struct Spread: Sendable, Codable, Hashable {
    public var median: Double
    public var min: Double
    public var max: Double

    /// - Precondition: `values` is not empty.
    public init(_ values: [Double]) {
        precondition(!values.isEmpty, "a quantity was measured at least once")
        let sorted = values.sorted()
        let middle = sorted.count / 2
        median = sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
        min = sorted[0]
        max = sorted[sorted.count - 1]
    }
}

/// What a ratio must reach.
public struct Bound: Sendable, Codable, Hashable {
    public enum Direction: String, Sendable, Codable { case atMost, atLeast }

    public var direction: Direction
    public var value: Double

    public static func atMost(_ value: Double) -> Self { Self(direction: .atMost, value: value) }
    public static func atLeast(_ value: Double) -> Self { Self(direction: .atLeast, value: value) }

    public func isMet(by ratio: Double) -> Bool { direction == .atMost ? ratio <= value : ratio >= value }
}

/// A published quantity, beside the floor or the peer it is measured against in the same rounds.
public struct Figure: Sendable, Codable {
    public var name: String
    /// "us", "GB/s", "faults/s", "s/GiB", "MiB", "ns", "allocations", "%".
    public var unit: String
    /// One value a round, in order.
    public var rounds: [Double]
    public var spread: Spread
    /// What it is compared with.
    public var reference: Reference?
    /// What the ratio (or, without a reference, the median itself) must reach.
    public var bound: Bound?
    public var isMet: Bool?

    public struct Reference: Sendable, Codable {
        public var name: String
        public var rounds: [Double]
        public var spread: Spread
        /// The ratio of the medians.
        public var ratio: Double
        /// The ratios of the rounds.
        public var ratioSpread: Spread
    }

    public init(_ name: String, unit: String, _ rounds: [Double], bound: Bound? = nil) {
        self.name = name
        self.unit = unit
        self.rounds = rounds
        spread = Spread(rounds)
        self.bound = bound
        isMet = bound?.isMet(by: spread.median)
    }

    /// - Parameter floor: one value a round, of the same rounds.
    public init(_ name: String, unit: String, _ rounds: [Double], against floorName: String, _ floor: [Double], bound: Bound? = nil) {
        precondition(rounds.count == floor.count, "both sides are from the same rounds")
        self.init(name, unit: unit, rounds)
        let floorSpread = Spread(floor)
        let ratio = spread.median / floorSpread.median
        reference = Reference(
            name: floorName, rounds: floor, spread: floorSpread, ratio: ratio, ratioSpread: Spread(zip(rounds, floor).map { $0 / $1 }))
        self.bound = bound
        isMet = bound?.isMet(by: ratio)
    }
}

/// The values of interleaved rounds, by name, in the order in which the names first came.
struct RoundLedger {
    private(set) var names: [String] = []
    private var values: [String: [Double]] = [:]

    mutating func record(_ name: String, _ value: Double) {
        if values[name] == nil { names.append(name) }
        values[name, default: []].append(value)
    }

    subscript(_ name: String) -> [Double] {
        guard let rounds = values[name] else { preconditionFailure("'\(name)' was never measured") }
        return rounds
    }

    /// Round by round.
    func sum(_ names: String...) -> [Double] {
        names.map { self[$0] }.reduce(nil) { (sum: [Double]?, next) in sum.map { zip($0, next).map { $0 + $1 } } ?? next } ?? []
    }
}
