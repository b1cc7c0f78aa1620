import ArgumentParser
import PageFerry

/// How a daemon waits for what comes next.
struct PollArguments: ParsableArguments {
    enum Mode: String, ExpressibleByArgument, CaseIterable {
        /// Never sleeps: the soonest answer, for a processor of its own.
        case busy
        /// Spins for what a thread waits for where that is good for something, then sleeps.
        case adaptive
        /// Sleeps at once: no processor is spent on waiting.
        case event
    }

    @Option(
        help: """
            How to wait for the next event: busy (never sleep), adaptive (spin for --spin where a processor has nothing else to do, \
            then sleep) or event (sleep at once).
            """)
    var poll = Mode.adaptive

    @Option(help: ArgumentHelp("With --poll adaptive: spin this long before sleeping.", valueName: "microseconds"))
    var spin = 50

    func validate() throws {
        guard (0...1_000_000).contains(spin) else { throw ValidationError("--spin takes 0 to 1000000 microseconds") }
    }

    var polling: Polling {
        switch poll {
        case .busy: .busy
        case .adaptive: .adaptive(spinNanoseconds: UInt64(spin) * 1_000)
        case .event: .event
        }
    }
}
