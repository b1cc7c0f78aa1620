import Demonstration
import Foundation
import Glibc
import PageCore

/// The RDMA community's own benchmarks (linux-rdma/perftest), run against themselves on one device: the peer to compare with.
struct Perftest {
    let device: String
    let host: String

    /// A line of results, as the tool printed it.
    struct Result {
        var line: String
        var columns: [Double]
    }

    /// The typical (median) microseconds of one RDMA READ.
    func readLatency(bytes: Int, iterations: Int) throws(BenchmarkError) -> (microseconds: Double, line: String) {
        let result = try run("ib_read_lat", bytes: bytes, iterations: iterations)
        // bytes, iterations, minimum, maximum, typical, average, ...
        guard result.columns.count >= 5 else { throw BenchmarkError("ib_read_lat printed no result") }
        return (result.columns[4], result.line)
    }

    /// The average MiB/s of `tool`, ib_read_bw or ib_write_bw.
    func bandwidth(_ tool: String, bytes: Int, iterations: Int) throws(BenchmarkError) -> (mebibytesPerSecond: Double, line: String) {
        let result = try run(tool, bytes: bytes, iterations: iterations)
        // bytes, iterations, peak, average, message rate
        guard result.columns.count >= 4 else { throw BenchmarkError("\(tool) printed no result") }
        return (result.columns[3], result.line)
    }

    private func run(_ tool: String, bytes: Int, iterations: Int) throws(BenchmarkError) -> Result {
        let port = String(18_000 + Int(getpid()) % 1_000)
        let shared = ["-d", device, "-x", gidIndex, "-s", "\(bytes)", "-n", "\(iterations)", "-F", "-p", port]
        let server: ChildProcess
        do throws(DemonstrationError) {
            server = try ChildProcess([tool] + shared, outputPath: "/dev/null")
        } catch {
            throw BenchmarkError("\(error.description); install perftest")
        }
        let deadline = MonotonicClock.nowNanoseconds() + 20_000_000_000
        // The server needs a moment to listen: a client that comes too early says so and ends.
        while true {
            let text = try ToolOutput.of([tool] + shared + [host], package: "perftest")
            if let result = Self.parse(text, bytes: bytes) {
                _ = server.waitForEnd(timeoutNanoseconds: 2_000_000_000)
                return result
            }
            guard MonotonicClock.nowNanoseconds() < deadline else {
                throw BenchmarkError("\(tool) did not work: \(text.split(separator: "\n").last ?? "no output")")
            }
        }
    }

    /// RoCE v2 over IPv4: the second entry of the table, on rxe and on most devices.
    private var gidIndex: String { "1" }

    /// The line of numbers that begins with the size.
    static func parse(_ text: String, bytes: Int) -> Result? {
        for line in text.split(separator: "\n") {
            let columns = line.split(whereSeparator: { $0 == " " || $0 == "\t" }).map { Double($0) }
            guard columns.count >= 4, columns[0] == Double(bytes), columns.allSatisfy({ $0 != nil }) else { continue }
            return Result(line: line.trimmingCharacters(in: .whitespaces), columns: columns.compactMap { $0 })
        }
        return nil
    }
}
