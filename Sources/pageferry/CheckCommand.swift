import ArgumentParser
import Foundation

/// `pageferry check`: what this host can do, what is missing, and how to mend it.
struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Say what this host can do, what is missing, and how to mend it.",
        discussion: "Ends with 0 when sessions can be served here, with 69 when something indispensable is missing.")

    @Flag(help: "Print JSON.")
    var json = false

    func run() throws {
        let check = HostCheck()
        if json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
            print(String(decoding: try encoder.encode(check), as: UTF8.self))
        } else {
            for item in check.items {
                let mark =
                    switch item.verdict {
                    case .good: "ok      "
                    case .limited: "limited "
                    case .missing: "MISSING "
                    }
                print("\(mark)\(item.subject): \(item.finding)")
                if let remedy = item.remedy { print("          \(remedy)") }
            }
        }
        if !check.isUsable { throw ExitCode(ExitStatus.unavailable.rawValue) }
    }
}
