import Demonstration
import Foundation
import Glibc
import PageCore

/// A link of its own, as `perf/link/with-link` makes it, and what one bare TCP stream carries over it (iperf3).
struct BareLink {
    /// The network namespace of the source's end; this process is in that of the destination's.
    let sourceNamespace: String
    let sourceAddress: String

    init() throws(BenchmarkError) {
        let environment = ProcessInfo.processInfo.environment
        guard let namespace = environment["PAGEFERRY_LINK_SOURCE"], let address = environment["PAGEFERRY_LINK_SOURCE_ADDRESS"] else {
            throw BenchmarkError("there is no link; run it through perf/link/bench, or `make bench-link`")
        }
        sourceNamespace = namespace
        sourceAddress = address
    }

    /// Starts a command at the source's end.
    var commandPrefix: [String] { ["ip", "netns", "exec", sourceNamespace] }

    /// Bytes a second from the source's end to this one.
    func streamRate(seconds: Int) throws(BenchmarkError) -> Double {
        let port = "\(19_000 + Int(getpid()) % 1_000)"
        let server: ChildProcess
        do throws(DemonstrationError) {
            server = try ChildProcess(commandPrefix + ["iperf3", "-s", "-1", "-p", port], outputPath: "/dev/null")
        } catch {
            throw BenchmarkError("\(error.description); install iperf3")
        }
        let deadline = MonotonicClock.nowNanoseconds() + 20_000_000_000
        // The server needs a moment to listen: a client that comes too early says so and ends.
        while true {
            let text = try ToolOutput.of(
                ["iperf3", "-c", sourceAddress, "-p", port, "-R", "-t", "\(seconds)", "-f", "k"], package: "iperf3")
            if let rate = Self.parse(text) {
                _ = server.waitForEnd(timeoutNanoseconds: 2_000_000_000)
                return rate
            }
            guard MonotonicClock.nowNanoseconds() < deadline else {
                throw BenchmarkError("iperf3 did not work: \(text.split(separator: "\n").last ?? "no output")")
            }
        }
    }

    /// The receiver's bytes a second, from "[  5]  0.00-1.00  sec  112 MBytes  941234 Kbits/sec  receiver".
    static func parse(_ text: String) -> Double? {
        for line in text.split(separator: "\n") where line.hasSuffix("receiver") {
            let words = line.split(separator: " ")
            guard let unit = words.firstIndex(of: "Kbits/sec"), unit > 0, let kilobits = Double(words[unit - 1]) else { continue }
            return kilobits * 125
        }
        return nil
    }
}
