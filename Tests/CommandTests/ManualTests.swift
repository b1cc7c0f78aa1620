import Foundation
import Glibc
import TestSupport
import Testing

/// The manual that is installed says what the program says of itself.
@Suite(.leavesNothing, .enabled(if: access(Built.pageferry, X_OK) == 0)) struct ManualTests {
    @Test func theManualHasEveryCommandAndOption() throws {
        let scratch = try Scratch()
        let output = scratch.file("help")
        let program = try Program([Built.pageferry, "--experimental-dump-help"], in: scratch, standardOutput: output)
        #expect(program.exitCode() == 0)
        let help = try #require(try JSONSerialization.jsonObject(with: Data(fileContents(output) ?? [])) as? [String: Any])
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let manual = try String(contentsOf: root.appending(path: "Packaging/pageferry.1"), encoding: .utf8)
        var count = 0
        func look(_ command: [String: Any]) {
            guard command["shouldDisplay"] as? Bool != false else { return }
            for argument in command["arguments"] as? [[String: Any]] ?? [] where argument["shouldDisplay"] as? Bool != false {
                for name in argument["names"] as? [[String: Any]] ?? [] where name["kind"] as? String == "long" {
                    let option = name["name"] as? String ?? ""
                    #expect(manual.contains("Fl -\(option)"), "--\(option): run make manual")
                    count += 1
                }
            }
            for subcommand in command["subcommands"] as? [[String: Any]] ?? [] where subcommand["shouldDisplay"] as? Bool != false {
                let name = subcommand["commandName"] as? String ?? ""
                #expect(manual.contains("It Em \(name)"), "\(name): run make manual")
                look(subcommand)
            }
        }
        look(try #require(help["command"] as? [String: Any]))
        #expect(count > 50, "the help was read")
    }
}
