import Demonstration
import Foundation

/// The plots of a report.
public struct ReportPlots {
    /// File names without their ending, and what they show.
    let charts: [(name: String, chart: Chart)]

    public init(_ report: BenchmarkReport) {
        charts = report.benchmarks.flatMap { result in
            [Self.latencies(result), Self.residency(result), Self.lanes(result)].compactMap { $0 }
        }
    }

    /// Writes each plot as SVG, and as PNG where rsvg-convert is installed.
    ///
    /// - Returns: the paths written.
    public func write(to directory: String) throws(BenchmarkError) -> [String] {
        var written: [String] = []
        try orBenchmarkError {
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            for (name, chart) in charts {
                let path = "\(directory)/\(name).svg"
                try chart.svg().write(toFile: path, atomically: true, encoding: .utf8)
                written.append(path)
                if let png = try Self.convert(path) { written.append(png) }
            }
        }
        return written
    }

    public static var canWritePNG: Bool { converter != nil }

    private static var converter: String? {
        let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
        return path.split(separator: ":").map { "\($0)/rsvg-convert" }.first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    private static func convert(_ path: String) throws -> String? {
        guard let converter else { return nil }
        let png = path.dropLast(3) + "png"
        let child = try ChildProcess([converter, "--zoom", "1.5", "--output", String(png), path])
        guard child.waitForEnd(timeoutNanoseconds: 30_000_000_000) == 0 else {
            throw BenchmarkError("rsvg-convert could not convert \(path)")
        }
        return String(png)
    }

    // MARK: Charts

    private static func latencies(_ result: BenchmarkResult) -> (String, Chart)? {
        guard !result.distributions.isEmpty else { return nil }
        // Eight curves are as many as can be told apart.
        let shown = result.distributions.prefix(8)
        let series = shown.enumerated().map { _, distribution in
            Chart.Series(
                name: distribution.name, points: distribution.points.map { ($0.microseconds, $0.percentile) },
                form: distribution.name.hasPrefix("wire") || distribution.name.hasPrefix("userfaultfd") ? .dashed : .line)
        }
        let chart = Chart(
            title: result.title, xLabel: "microseconds", yLabel: "percentile",
            x: .logarithmic(around: shown.flatMap { $0.points.map(\.microseconds) }), y: .tail(nines: 4), series: series)
        return ("\(result.name)-latency", chart)
    }

    private static func residency(_ result: BenchmarkResult) -> (String, Chart)? {
        guard result.residency.count > 1 else { return nil }
        let kinds: [(String, KeyPath<ResidencySample, Int>)] = [
            ("demanded", \.demandPages), ("windows", \.windowPages), ("pushed", \.pushPages), ("zero", \.zeroPages),
        ]
        var below = [Double](repeating: 0, count: result.residency.count)
        let series = kinds.map { name, key in
            for (index, sample) in result.residency.enumerated() { below[index] += Double(sample[keyPath: key]) }
            return Chart.Series(name: name, points: zip(result.residency, below).map { ($0.milliseconds, $1) }, form: .area)
        }
        let chart = Chart(
            title: "Resident pages over time, by how they came", xLabel: "milliseconds", yLabel: "pages",
            x: .fromZero(to: result.residency.map(\.milliseconds)), y: .fromZero(to: below), series: series)
        return ("\(result.name)-residency", chart)
    }

    private static func lanes(_ result: BenchmarkResult) -> (String, Chart)? {
        guard !result.lanes.isEmpty else { return nil }
        var names: [String] = []
        for lane in result.lanes where !names.contains(lane.series) { names.append(lane.series) }
        let series = names.map { name in
            let lanes = result.lanes.filter { $0.series == name }
            return Chart.Series(
                name: name, points: lanes.map { (Double($0.lanes), $0.spread.median) }, form: name.contains("bare") ? .dashed : .line,
                extents: lanes.map { ($0.spread.min, $0.spread.max) })
        }
        let chart = Chart(
            title: "Throughput against lanes: median, lowest, highest", xLabel: "bulk lanes", yLabel: "GB/s",
            x: .fromZero(to: result.lanes.map { Double($0.lanes) }), y: .fromZero(to: result.lanes.map(\.spread.max)), series: series)
        return ("\(result.name)-lanes", chart)
    }
}
