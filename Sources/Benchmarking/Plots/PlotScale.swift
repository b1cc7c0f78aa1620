import Glibc

/// How values of one axis become places on it.
enum PlotScale: Sendable {
    case linear(ClosedRange<Double>)
    /// Base 10; the bounds are positive.
    case logarithmic(ClosedRange<Double>)
    /// Percentiles from 0 up to `nines` nines, as far apart as they are rare: 90, 99 and 99.9 at equal distances.
    case tail(nines: Int)

    /// From 0 to 1, clamped.
    func place(_ value: Double) -> Double {
        let place =
            switch self {
            case .linear(let range): (value - range.lowerBound) / (range.upperBound - range.lowerBound)
            case .logarithmic(let range):
                (log10(max(value, range.lowerBound)) - log10(range.lowerBound)) / (log10(range.upperBound) - log10(range.lowerBound))
            case .tail(let nines): -log10(max(1 - value / 100, pow(10, -Double(nines)))) / Double(nines)
            }
        return min(1, max(0, place))
    }

    /// Where lines and labels are drawn.
    var ticks: [(value: Double, label: String)] {
        switch self {
        case .linear(let range):
            let step = Self.step(range.upperBound - range.lowerBound)
            return stride(from: (range.lowerBound / step).rounded(.up) * step, through: range.upperBound, by: step).map {
                ($0, Self.label($0))
            }
        case .logarithmic(let range):
            let powers = Int(log10(range.lowerBound).rounded(.down))...Int(log10(range.upperBound).rounded(.up))
            let steps: [Double] = [1, 2, 5]
            let values: [Double] = powers.flatMap { power in steps.map { $0 * pow(10, Double(power)) } }
            return values.filter { range.contains($0) }.map { ($0, Self.label($0)) }
        case .tail(let nines):
            var ticks = [(value: 0.0, label: "0"), (value: 50, label: "50"), (value: 90, label: "90")]
            for count in stride(from: 2, through: nines, by: 1) {
                ticks.append((100 - pow(10, 2 - Double(count)), count == 2 ? "99" : "99." + String(repeating: "9", count: count - 2)))
            }
            return ticks
        }
    }

    /// A step of 1, 2 or 5 times a power of ten, for about six ticks.
    private static func step(_ length: Double) -> Double {
        let rough = length / 6
        let power = pow(10, log10(rough).rounded(.down))
        return ([1, 2, 5, 10].first { $0 * power >= rough } ?? 10) * power
    }

    private static func label(_ value: Double) -> String {
        if value >= 1_000_000 { return "\(TextTable.short(value / 1_000_000))M" }
        return value >= 10_000 ? "\(TextTable.short(value / 1_000))k" : TextTable.short(value)
    }

    /// A range that holds values and a little more.
    static func logarithmic(around values: [Double]) -> PlotScale {
        let positive = values.filter { $0 > 0 && $0.isFinite }
        guard let low = positive.min(), let high = positive.max() else { return .logarithmic(1...10) }
        return .logarithmic(low * 0.8...max(high, low * 2) * 1.2)
    }

    static func fromZero(to values: [Double]) -> PlotScale {
        .linear(0...max(values.filter(\.isFinite).max() ?? 1, 1e-9) * 1.1)
    }
}
