import ArgumentParser
import PageCore
import PageFerry

/// How long a session without a link is kept, and how operators reach its daemon meanwhile.
struct PauseArguments: ParsableArguments {
    @Option(help: ArgumentHelp("Answer `pageferry status` and `recover` on this socket.", valueName: "path"))
    var control: String?

    @Option(
        help: ArgumentHelp(
            "End a session whose link has been lost for so long; 0 ends it at once. By default a machine's is kept for ever, a memory file's source waits 10 minutes.",
            valueName: "seconds"))
    var giveUpAfter: Int?

    func validate() throws {
        if let giveUpAfter, !(0...1_000_000).contains(giveUpAfter) { throw ValidationError("--give-up-after takes 0 to 1000000 seconds") }
    }

    /// - Parameter standard: where nothing is said.
    func nanoseconds(orElse standard: UInt64) -> UInt64 { giveUpAfter.map { UInt64($0) * 1_000_000_000 } ?? standard }
}

extension Console {
    /// Says that a destination's link was lost.
    static func lost(_ error: SessionError) {
        info("\(error); paused: looking for the source, whoever touches a missing page waits")
    }
}
