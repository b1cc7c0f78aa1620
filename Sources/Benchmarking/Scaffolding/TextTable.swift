/// A report for people, in fixed-width columns.
public struct TextTable {
    public static func text(of result: BenchmarkResult) -> String {
        let rows = [["", "median", "min", "max", "unit", "floor", "ratio", "", ""]] + result.figures.map(row)
        let widths = (0..<rows[0].count).map { column in rows.map { $0[column].count }.max() ?? 0 }
        let lines = rows.map { row in
            let cells = row.enumerated().map { column, cell in
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 || column == 4 || column >= 7 ? cell + padding : padding + cell
            }
            let line = cells.joined(separator: "  ")
            return String(line.reversed().drop { $0 == " " }.reversed())
        }
        let title =
            "\(result.name): \(result.title) (\(result.rounds) rounds, \(number(result.elapsedSeconds)) s; others used \(number(result.otherUsePercent)) % of the processors)"
        return ([title] + lines.map { "  \($0)" } + result.notes.map { "  note: \($0)" }).joined(separator: "\n")
    }

    private static func row(_ figure: Figure) -> [String] {
        let verdict = figure.isMet.map { $0 ? "met" : "MISSED" } ?? ""
        let bound = figure.bound.map { "\($0.direction == .atMost ? "<=" : ">=") \(number($0.value))" } ?? ""
        return [
            figure.name, number(figure.spread.median), number(figure.spread.min), number(figure.spread.max), figure.unit,
            figure.reference.map { number($0.spread.median) } ?? "", figure.reference.map { number($0.ratio) } ?? "", bound, verdict,
        ]
    }

    /// Three significant digits or so, never in scientific notation.
    static func number(_ value: Double) -> String {
        guard value.isFinite else { return "-" }
        let digits = value.magnitude >= 1_000 || value == 0 ? 0 : value.magnitude >= 100 ? 1 : value.magnitude >= 1 ? 2 : 3
        var scale = 1.0
        for _ in 0..<digits { scale *= 10 }
        let rounded = (value * scale).rounded()
        guard digits > 0 else { return "\(Int(rounded))" }
        let whole = Int(rounded.magnitude) / Int(scale)
        let fraction = "\(Int(rounded.magnitude) % Int(scale))"
        return (value < 0 ? "-" : "") + "\(whole)." + String(repeating: "0", count: digits - fraction.count) + fraction
    }

    /// As `number`, without zeros at the end: for labels.
    static func short(_ value: Double) -> String {
        let text = number(value)
        guard text.contains(".") else { return text }
        let cut = text.reversed().drop { $0 == "0" }
        return String((cut.first == "." ? cut.dropFirst() : cut).reversed())
    }
}
