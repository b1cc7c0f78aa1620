/// One measured quantity over the rounds of a run: each round's value, and what to remember of them.
public struct Figure: Sendable, Codable, Hashable {
    public var name: String
    public var unit: String
    /// One value a round, in the order of the rounds.
    public var values: [Double]

    public init(_ name: String, unit: String, values: [Double] = []) {
        self.name = name
        self.unit = unit
        self.values = values
    }

    public var median: Double { Self.percentile(values, 50) }
    public var minimum: Double { values.min() ?? .nan }
    public var maximum: Double { values.max() ?? .nan }

    /// The value below which `percent` of the values lie (nearest rank).
    public static func percentile(_ values: [Double], _ percent: Double) -> Double {
        guard !values.isEmpty else { return .nan }
        let sorted = values.sorted()
        let rank = Int((percent / 100 * Double(sorted.count)).rounded(.up))
        return sorted[min(max(rank, 1), sorted.count) - 1]
    }
}

/// A ratio of two figures of the same run, and what it is asked to be.
public struct Ratio: Sendable, Codable, Hashable {
    public enum Bound: Sendable, Codable, Hashable {
        case atMost(Double)
        case atLeast(Double)
    }

    public var name: String
    /// The ratio of each round; what both sides share (the machine's mood) falls out.
    public var values: [Double]
    public var bound: Bound?

    public init(_ name: String, values: [Double], bound: Bound? = nil) {
        self.name = name
        self.values = values
        self.bound = bound
    }

    public var median: Double { Figure.percentile(values, 50) }

    /// Whether the median keeps the bound; nil without one.
    public var isMet: Bool? {
        switch bound {
        case .atMost(let most): median <= most
        case .atLeast(let least): median >= least
        case nil: nil
        }
    }
}

/// What a benchmark could not do. One line.
public struct BenchmarkError: Error, Sendable, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}
