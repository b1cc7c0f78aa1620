import ArgumentParser
import Benchmarking
import Foundation
import Glibc

extension BenchmarkName: ExpressibleByArgument {}

/// `pageferry bench`: what PageFerry costs beside what kernel and wire cost.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measure faults, push, processor time and memory, each beside its floor in the same interleaved rounds.",
        discussion: """
            Names: all, \(BenchmarkName.allCases.map(\.rawValue).joined(separator: ", ")).
            rdma needs a device and perftest, link a link that perf/link/bench makes: neither is in all.
            """)

    @Argument(help: ArgumentHelp("What to measure.", valueName: "name"))
    var names: [String] = ["all"]

    @Option(help: "Measured rounds of each benchmark.")
    var rounds = 5

    @Option(help: ArgumentHelp("Write the report to this file as JSON.", valueName: "file"))
    var json: String?

    @Option(
        help: ArgumentHelp("Draw the plots into this directory, as SVG and, with rsvg-convert, as PNG.", valueName: "directory"))
    var plots: String?

    @Option(help: ArgumentHelp("The device of `bench rdma`; the first with an IPv4 address by default.", valueName: "name"))
    var device: String?

    @Option(
        help: ArgumentHelp("Where `bench pattern` finds recorded traces; perf/traces by default, if there is one.", valueName: "directory"))
    var traces: String?

    @Option(help: ArgumentHelp("Source revision for the report's header.", valueName: "text"))
    var revision: String?

    func validate() throws {
        guard (1...1_000).contains(rounds) else { throw ValidationError("--rounds takes 1 to 1000") }
        for name in names where name != "all" && BenchmarkName(rawValue: name) == nil {
            let known = BenchmarkName.allCases.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("there is no benchmark '\(name)'; choose from: all, \(known)")
        }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            SignalWatch.start { signal in
                Leftovers.cleanUp()
                _exit(128 + signal)
            }
            var report = BenchmarkReport(machine: .current(revision: revision))
            print(report.machine.header)
            var context = BenchmarkContext(executablePath: Executable.path)
            context.rounds = rounds
            context.device = device
            context.tracesPath = traces ?? (FileManager.default.fileExists(atPath: "perf/traces") ? "perf/traces" : nil)
            context.allocationProbePath = Executable.companion("libpageferry-allocation-probe.so")
            context.progress = { Console.progress($0) }
            for name in chosen {
                let result = try measured { () throws(BenchmarkError) in try name.run(context) }
                Console.clearProgress()
                print("\n" + TextTable.text(of: result))
                report.benchmarks.append(result)
                // After each: a long run that is stopped has left what it found.
                if let json { try JSONFile.write(report, to: json) }
            }
            if let plots {
                let written = try measured { () throws(BenchmarkError) in try ReportPlots(report).write(to: plots) }
                if !ReportPlots.canWritePNG { Console.info("no PNG: rsvg-convert is missing (Debian: librsvg2-bin)") }
                for path in written { Console.info("wrote \(path)") }
            }
        }
    }

    private func measured<Result>(_ body: () throws(BenchmarkError) -> Result) throws(CommandFailure) -> Result {
        do throws(BenchmarkError) { return try body() } catch { throw CommandFailure("bench: \(error.description)", .software) }
    }

    private var chosen: [BenchmarkName] {
        names.contains("all") ? BenchmarkName.everywhere : BenchmarkName.allCases.filter { names.contains($0.rawValue) }
    }
}
