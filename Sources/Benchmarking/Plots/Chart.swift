/// A chart with two axes, drawn as SVG: fixed size, no scripts, no fonts of its own.
struct Chart: Sendable {
    struct Series: Sendable {
        enum Form: Sendable {
            case line
            case dashed
            /// Filled down to the series before it.
            case area
        }

        var name: String
        var points: [(x: Double, y: Double)]
        var form = Form.line
        /// Lowest and highest value at each point, where they were measured.
        var extents: [(low: Double, high: Double)] = []
    }

    var title: String
    var xLabel: String
    var yLabel: String
    var x: PlotScale
    var y: PlotScale
    var series: [Series]

    private static let width = 860.0
    private static let height = 500.0
    private static let left = 76.0
    private static let right = 240.0
    private static let top = 44.0
    private static let bottom = 58.0
    /// Okabe and Ito's palette, which most kinds of colour blindness tell apart.
    private static let colors = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C00"]

    private func across(_ value: Double) -> Double { Self.left + x.place(value) * (Self.width - Self.left - Self.right) }
    private func down(_ value: Double) -> Double { Self.height - Self.bottom - y.place(value) * (Self.height - Self.top - Self.bottom) }

    /// The whole file.
    func svg() -> String {
        var lines = [
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"\(Int(Self.width))\" height=\"\(Int(Self.height))\""
                + " viewBox=\"0 0 \(Int(Self.width)) \(Int(Self.height))\" font-family=\"sans-serif\" font-size=\"12\">",
            "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
            text(title, Self.left, 24, "font-size=\"15\" font-weight=\"bold\""),
        ]
        lines += grid()
        for (number, series) in series.enumerated() { lines += draw(series, number) }
        lines += legend()
        return (lines + ["</svg>", ""]).joined(separator: "\n")
    }

    private func grid() -> [String] {
        let right = Self.width - Self.right
        let floor = Self.height - Self.bottom
        var lines: [String] = []
        for tick in x.ticks {
            let place = across(tick.value)
            lines.append(line(place, Self.top, place, floor, "stroke=\"#e0e0e0\""))
            lines.append(text(tick.label, place, floor + 18, "text-anchor=\"middle\""))
        }
        for tick in y.ticks {
            let place = down(tick.value)
            lines.append(line(Self.left, place, right, place, "stroke=\"#e0e0e0\""))
            lines.append(text(tick.label, Self.left - 8, place + 4, "text-anchor=\"end\""))
        }
        lines.append(line(Self.left, floor, right, floor, "stroke=\"black\""))
        lines.append(line(Self.left, Self.top, Self.left, floor, "stroke=\"black\""))
        lines.append(text(xLabel, (Self.left + right) / 2, Self.height - 16, "text-anchor=\"middle\""))
        let middle = (Self.top + floor) / 2
        lines.append(text(yLabel, 18, middle, "text-anchor=\"middle\" transform=\"rotate(-90 18 \(round(middle)))\""))
        return lines
    }

    private func draw(_ series: Series, _ number: Int) -> [String] {
        guard !series.points.isEmpty else { return [] }
        let color = Self.colors[number % Self.colors.count]
        let path = series.points.map { "\(round(across($0.x))),\(round(down($0.y)))" }
        switch series.form {
        case .area:
            let below = number > 0 ? self.series[number - 1].points : series.points.map { ($0.x, 0) }
            let back = below.reversed().map { "\(round(across($0.0))),\(round(down($0.1)))" }
            return ["<polygon points=\"\((path + back).joined(separator: " "))\" fill=\"\(color)\" fill-opacity=\"0.75\"/>"]
        case .line, .dashed:
            let dash = series.form == .dashed ? " stroke-dasharray=\"6 4\"" : ""
            var lines = [
                "<polyline points=\"\(path.joined(separator: " "))\" fill=\"none\" stroke=\"\(color)\" stroke-width=\"2\"\(dash)/>"
            ]
            for (point, extent) in zip(series.points, series.extents) {
                let place = across(point.x)
                lines.append(line(place, down(extent.low), place, down(extent.high), "stroke=\"\(color)\""))
                lines.append("<circle cx=\"\(round(place))\" cy=\"\(round(down(point.y)))\" r=\"3.5\" fill=\"\(color)\"/>")
            }
            return lines
        }
    }

    private func legend() -> [String] {
        let place = Self.width - Self.right + 16
        return series.enumerated().flatMap { number, series in
            let height = Self.top + 10 + Double(number) * 20
            let color = Self.colors[number % Self.colors.count]
            let dash = series.form == .dashed ? " stroke-dasharray=\"6 4\"" : ""
            return [
                line(place, height, place + 22, height, "stroke=\"\(color)\" stroke-width=\"\(series.form == .area ? 10 : 2)\"\(dash)"),
                text(series.name, place + 28, height + 4, ""),
            ]
        }
    }

    private func line(_ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ attributes: String) -> String {
        "<line x1=\"\(round(x1))\" y1=\"\(round(y1))\" x2=\"\(round(x2))\" y2=\"\(round(y2))\" \(attributes)/>"
    }

    private func text(_ content: String, _ x: Double, _ y: Double, _ attributes: String) -> String {
        let escaped = content.map { ["&": "&amp;", "<": "&lt;", ">": "&gt;"][$0] ?? String($0) }.joined()
        return "<text x=\"\(round(x))\" y=\"\(round(y))\" \(attributes)>\(escaped)</text>"
    }

    /// To a tenth of a pixel.
    private func round(_ value: Double) -> Double { (value * 10).rounded() / 10 }
}
