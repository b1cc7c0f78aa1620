import ArgumentParser
import Benchmarking
import Foundation
import PageFerry

/// `pageferry bench NAME`: measurements beside their floors and peers, in the same interleaved rounds.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench", abstract: "Measure, beside the physical floor and the peers, in the same interleaved rounds.",
        subcommands: [BenchRDMACommand.self])
}

struct BenchRDMACommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rdma", abstract: "Demand faults and push over RDMA against perftest and the bare userfaultfd.")

    @Option(help: "Interleaved rounds.")
    var rounds = 5

    @Option(help: ArgumentHelp("The RDMA device; the first with an IPv4 address by default.", valueName: "name"))
    var device: String?

    @Option(help: "Pages touched in a round.")
    var touches = 10_000

    @Option(help: ArgumentHelp("Spin this long for the next event before sleeping.", valueName: "microseconds"))
    var spin = 50

    @Option(help: ArgumentHelp("Write the report to this file as JSON.", valueName: "file"))
    var json: String?

    func validate() throws {
        guard (1...100).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100") }
        guard (1...16_384).contains(touches) else { throw ValidationError("--touches takes 1 to 16384") }
        guard (0...1_000_000).contains(spin) else { throw ValidationError("--spin takes 0 to 1000000 microseconds") }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            var configuration = RDMABenchmark.Configuration(executablePath: Executable.path)
            configuration.rounds = rounds
            configuration.device = device
            configuration.touches = touches
            configuration.spinNanoseconds = UInt64(spin) * 1_000
            let report: RDMABenchmark.Report
            do throws(BenchmarkError) {
                report = try RDMABenchmark(configuration) { Console.progress($0) }.run()
            } catch {
                throw CommandFailure(error.description, .unavailable)
            }
            for line in report.perftest { print(line) }
            print(BenchmarkTable.text(machine: report.machine, figures: report.figures, ratios: report.ratios))
            if let json { try JSONFile.write(report, to: json) }
        }
    }
}

/// Figures and ratios as a table for people.
enum BenchmarkTable {
    static func text(machine: MachineDescription, figures: [Figure], ratios: [Ratio]) -> String {
        var lines = [
            "\(machine.processor), \(machine.processorCount) processors, Linux \(machine.kernel)\(machine.isRelease ? "" : ", DEBUG BUILD")",
            row("", "median", "min", "max", ""),
        ]
        for figure in figures {
            lines.append(row(figure.name, number(figure.median), number(figure.minimum), number(figure.maximum), figure.unit))
        }
        for ratio in ratios {
            lines.append(
                row(
                    ratio.name, number(ratio.median), number(ratio.values.min() ?? .nan), number(ratio.values.max() ?? .nan),
                    verdict(ratio)))
        }
        return lines.joined(separator: "\n")
    }

    private static func verdict(_ ratio: Ratio) -> String {
        switch ratio.bound {
        case .atMost(let most): "at most \(most): \(ratio.isMet == true ? "met" : "NOT MET")"
        case .atLeast(let least): "at least \(least): \(ratio.isMet == true ? "met" : "NOT MET")"
        case nil: ""
        }
    }

    private static func number(_ value: Double) -> String {
        value.isNaN ? "-" : String(format: abs(value) >= 100 ? "%.0f" : abs(value) >= 10 ? "%.1f" : "%.2f", value)
    }

    private static func row(_ name: String, _ median: String, _ minimum: String, _ maximum: String, _ unit: String) -> String {
        func pad(_ text: String, _ width: Int) -> String { String(repeating: " ", count: max(0, width - text.count)) + text }
        return name + String(repeating: " ", count: max(1, 62 - name.count)) + pad(median, 9) + pad(minimum, 9) + pad(maximum, 9) + "  " + unit
    }
}
