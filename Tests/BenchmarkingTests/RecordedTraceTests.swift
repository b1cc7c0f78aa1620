import Foundation
import PageEngine
import PageSimulation
import Testing

@testable import Benchmarking

/// The traces of the source tree.
@Suite struct RecordedTraceTests {
    static let directory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "perf/traces").path

    @Test func realProgramsWaitSeldomAndReplaysHardly() throws {
        let traces = try RecordedTrace.all(in: Self.directory)
        #expect(traces.count >= 4)
        for trace in traces {
            #expect(trace.touches.count > 1_000 && Set(trace.touches).count == trace.touches.count, "\(trace.name) tells each page once")
            let first = PatternSimulation.run(trace.touches, layout: trace.layout, policy: .adaptive())
            #expect(first.networkFaultPercent <= 21, "\(trace.name): \(first)")
            let second = PatternSimulation.run(trace.touches, layout: trace.layout, policy: .adaptive(), replaying: trace.trace)
            #expect(second.networkFaults * 20 <= first.networkFaults, "\(trace.name): \(second)")
        }
    }

    @Test func aDirectoryWithoutTracesHasNone() throws {
        #expect(try RecordedTrace.all(in: nil).isEmpty)
        #expect(throws: BenchmarkError.self) { try RecordedTrace.all(in: "/nonexistent") }
    }
}
