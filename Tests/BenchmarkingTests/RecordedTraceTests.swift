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
            // A link that brings a page in 8 us, to a program that wants one every 5: it waits for the link, not for round trips.
            var slow = PatternSimulation.Host()
            slow.linkBytesPerMicrosecond = 500
            let overSlow = PatternSimulation.run(
                trace.touches, layout: trace.layout, policy: .adaptive(), host: slow, replaying: trace.trace)
            let wireNanoseconds = trace.touches.count * 4096 * 1000 / slow.linkBytesPerMicrosecond
            #expect(overSlow.elapsedNanoseconds < wireNanoseconds * 21 / 20 && overSlow.unusedPages == 0, "\(trace.name): \(overSlow)")
        }
    }

    @Test func aDirectoryWithoutTracesHasNone() throws {
        #expect(try RecordedTrace.all(in: nil).isEmpty)
        #expect(throws: BenchmarkError.self) { try RecordedTrace.all(in: "/nonexistent") }
    }
}
