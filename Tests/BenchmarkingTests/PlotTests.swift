import Foundation
import FoundationXML
import Testing

@testable import Benchmarking

@Suite struct PlotTests {
    @Test func everyNineOfATailIsAsLongAsTheOthers() {
        let scale = PlotScale.tail(nines: 4)
        #expect(scale.place(0) == 0)
        #expect(abs(scale.place(90) - 0.25) < 1e-9)
        #expect(abs(scale.place(99) - 0.5) < 1e-9)
        #expect(abs(scale.place(99.9) - 0.75) < 1e-9)
        #expect(scale.place(100) == 1)
        #expect(scale.ticks.map(\.label) == ["0", "50", "90", "99", "99.9", "99.99"])
    }

    @Test func logarithmicPlacesAreOfTheMagnitude() {
        let scale = PlotScale.logarithmic(1...100)
        #expect(scale.place(1) == 0 && scale.place(10) == 0.5 && scale.place(100) == 1)
        #expect(scale.place(0) == 0, "what has no logarithm lies at the edge")
        #expect(scale.ticks.map(\.value) == [1, 2, 5, 10, 20, 50, 100])
    }

    @Test func linearTicksAreRoundNumbers() {
        #expect(PlotScale.linear(0...10).ticks.map(\.value) == [0, 2, 4, 6, 8, 10])
    }

    @Test func aChartIsWellFormedWhateverItsNames() throws {
        let chart = Chart(
            title: "a < b & c", xLabel: "x", yLabel: "y", x: .linear(0...1), y: .linear(0...1),
            series: [
                .init(name: "<line>", points: [(0, 0), (1, 1)], extents: [(0, 0.1), (0.9, 1)]),
                .init(name: "area", points: [(0, 0.5), (1, 0.5)], form: .area), .init(name: "nothing", points: []),
            ])
        #expect(XMLParser(data: Data(chart.svg().utf8)).parse(), "the SVG is XML")
        #expect(chart.svg().contains("a &lt; b &amp; c"))
    }

    @Test func plotsAreWrittenForWhatAReportHolds() throws {
        var result = BenchmarkResult(name: "push", title: "push", rounds: 1)
        result.lanes = [
            LaneThroughput(series: "tcp", lanes: 1, spread: Spread([1])), LaneThroughput(series: "tcp", lanes: 2, spread: Spread([2])),
        ]
        var recorder = LatencyRecorder()
        for value in 1...1_000 { recorder.record(UInt64(value) * 1_000) }
        result.distributions = [Distribution("fault", recorder)]
        var report = BenchmarkReport(machine: .current(revision: nil))
        report.benchmarks = [result]
        let directory = FileManager.default.temporaryDirectory.appending(path: "pageferry-plots-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: directory) }
        let written = try ReportPlots(report).write(to: directory.path)
        #expect(
            Set(written.filter { $0.hasSuffix("svg") }.map { $0.split(separator: "/").last! }) == ["push-lanes.svg", "push-latency.svg"])
        for path in written { #expect(FileManager.default.contents(atPath: path)?.isEmpty == false) }
        #expect(ReportPlots.canWritePNG == written.contains { $0.hasSuffix("png") })
    }

    @Test func distributionsSayWhatWasRecorded() {
        var recorder = LatencyRecorder()
        for value in 1...1_000 { recorder.record(UInt64(value) * 1_000) }
        let distribution = Distribution("fault", recorder)
        #expect(distribution.count == 1_000)
        #expect(abs(distribution.p50Microseconds - 500) < 2 && abs(distribution.p99Microseconds - 990) < 2)
        #expect(distribution.points.last?.percentile == 100)
        #expect(distribution.points.map(\.microseconds) == distribution.points.map(\.microseconds).sorted())
    }
}
