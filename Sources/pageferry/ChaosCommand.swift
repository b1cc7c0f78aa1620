import ArgumentParser
import Demonstration
import Foundation

/// `pageferry chaos`: daemons killed and lanes cut at random moments; nothing may be lost.
struct ChaosCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chaos",
        abstract: "Move memory that is in use while lanes are cut and daemons are killed, and compare every byte.")

    @Option(help: "Migrations, one after the other.")
    var rounds = 10

    @Option(help: ArgumentHelp("How much memory each moves.", valueName: "size"))
    var size = SizeArgument(bytes: 64 << 20)

    @Option(help: "Seed of everything that is drawn.")
    var seed: UInt64 = 1

    @Option(
        help: ArgumentHelp(
            "The demonstration guest's directory (make guest): every tenth round moves a real machine.", valueName: "directory"))
    var guest: String?

    @Option(help: ArgumentHelp("Write the reports to this file as JSON.", valueName: "file"))
    var json: String?

    func validate() throws {
        guard (1...100_000).contains(rounds) else { throw ValidationError("--rounds takes 1 to 100000") }
        guard size.bytes >= 1 << 20, size.bytes % (2 << 20) == 0 else { throw ValidationError("--size takes a multiple of 2M") }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            var configuration = ChaosDemonstration.Configuration(executablePath: Executable.path)
            configuration.lengthBytes = size.bytes
            configuration.seed = seed
            if let guest {
                do throws(DemonstrationError) {
                    configuration.guest = try GuestImage(directory: guest)
                } catch {
                    throw CommandFailure(error.description, .noInput)
                }
            }
            let demonstration = ChaosDemonstration(configuration)
            var reports: [ChaosDemonstration.Report] = []
            for round in 1...rounds {
                let report: ChaosDemonstration.Report
                do throws(DemonstrationError) {
                    report = try demonstration.run(round: round)
                } catch {
                    throw CommandFailure("round \(round): \(error.description)", .software)
                }
                print(text(of: report))
                // Watched through a pipe, too.
                fflush(nil)
                reports.append(report)
            }
            if let json { try JSONFile.write(reports, to: json) }
            let lost = reports.count { $0.failure != nil }
            let wrong = reports.count { $0.wrongPages > 0 }
            print("\(rounds) rounds: \(lost) lost, \(wrong) wrong")
            if !reports.allSatisfy(\.isRight) { throw CommandFailure("not every round came through; see above", .software) }
        }
    }

    private func text(of report: ChaosDemonstration.Report) -> String {
        let outcome =
            report.failure.map { "LOST: \($0)" } ?? (report.wrongPages == 0 ? "every byte right" : "WRONG: \(report.wrongPages) pages")
        return
            "round \(report.round), \(report.kind?.rawValue ?? "machine"): \(report.cuts) cuts, killed: source \(report.sourceKills), destination \(report.destinationKills), both \(report.bothKills); \(report.takeovers) take-overs, \(String(format: "%.1f", report.seconds)) s: \(outcome)"
    }
}
