import Foundation
import TestSupport
import Testing

@testable import PageFerry

@Suite(.leavesNothing) struct SpareProcessorsTests {
    @Test(arguments: [
        ("0.75 0.67 1.08 3/85 32169\n", 3), ("12.00 9.10 8.05 128/40961 7\n", 128), ("0.00 0.00 0.00 0/1 1\n", 0),
    ])
    func runnableThreadsAreReadFromTheFourthField(line: String, count: Int) {
        #expect(runnable(line) == count)
    }

    @Test(arguments: ["", "\n", "0.75 0.67 1.08", "0.75 0.67 1.08 /85 1", "0.75 0.67 1.08 x/85 1", "0.75 0.67 1.08 3", "3/85"])
    func anythingElseTellsNothing(line: String) {
        #expect(runnable(line) == nil)
    }

    @Test func aNumberBeyondAnyHostTellsNothing() {
        #expect(runnable("0 0 0 99999999999999999999999/85 1") == nil)
    }

    /// As many threads as processors, this one among them: none waits.
    @Test(arguments: [(1, true), (4, true), (5, false)]) func spareUpToTheLastProcessor(threads: Int, expected: Bool) throws {
        try withLoadAverage(threads) { path, _ in
            var processors = SpareProcessors(path: path, processorCount: 4)
            let areThere = processors.areThere(nowNanoseconds: 1_000_000_000)
            #expect(areThere == expected)
        }
    }

    @Test func looksAgainAfterAMillisecondAndNotBefore() throws {
        try withLoadAverage(9) { path, write in
            var processors = SpareProcessors(path: path, processorCount: 4)
            var answers = [processors.areThere(nowNanoseconds: 5_000_000)]
            try write(2)
            answers.append(processors.areThere(nowNanoseconds: 5_999_999))
            answers.append(processors.areThere(nowNanoseconds: 6_000_000))
            #expect(answers == [false, false, true])
        }
    }

    @Test func aHostThatDoesNotTellHasAlwaysOne() {
        var processors = SpareProcessors(path: "/proc/there/is/no/such/file", processorCount: 0)
        let areThere = processors.areThere(nowNanoseconds: 1)
        #expect(areThere)
    }

    /// The real file: a thread that asks runs, so with no processor at all there is none to spare, and with very many there is.
    @Test func readsTheKernelsOwn() {
        let answers = [0, 1 << 20].map { count in
            var processors = SpareProcessors(processorCount: count)
            return processors.areThere(nowNanoseconds: 1)
        }
        #expect(answers == [false, true])
    }

    private func runnable(_ line: String) -> Int? {
        Array(line.utf8).withUnsafeBytes { bytes in
            // SAFETY: the span lives for the closure, as the bytes do.
            unsafe SpareProcessors.runnableThreads(in: RawSpan(_unsafeBytes: bytes))
        }
    }

    /// `body` is given a file that reads like /proc/loadavg, and a way to change its runnable threads.
    private func withLoadAverage(_ threads: Int, _ body: (String, (Int) throws -> Void) throws -> Void) throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent("pageferry-loadavg-\(UUID().uuidString)").path
        let write = { (threads: Int) in try Self.overwrite(path, "0.75 0.67 1.08 \(threads)/85 32169\n") }
        try write(threads)
        defer { try? FileManager.default.removeItem(atPath: path) }
        try body(path, write)
    }

    /// In place: the reader keeps its descriptor.
    private static func overwrite(_ path: String, _ text: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: path), options: [])
    }
}
