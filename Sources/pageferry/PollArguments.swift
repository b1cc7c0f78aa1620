import ArgumentParser

/// How a daemon waits for what comes next.
struct PollArguments: ParsableArguments {
    enum Mode: String, ExpressibleByArgument, CaseIterable {
        /// Never sleeps: the soonest answer, for a processor of its own.
        case busy
        /// Spins for a while after something happened, then sleeps.
        case adaptive
        /// Sleeps at once: no processor is spent on waiting.
        case event
    }

    /// Longer than any wait of a session: it never comes to sleep.
    private static let busyNanoseconds: UInt64 = 1_000_000_000

    @Option(help: "How to wait for the next event: busy (never sleep), adaptive (spin for --spin, then sleep) or event (sleep at once).")
    var poll = Mode.adaptive

    @Option(help: ArgumentHelp("With --poll adaptive: spin this long before sleeping.", valueName: "microseconds"))
    var spin = 50

    func validate() throws {
        guard (0...1_000_000).contains(spin) else { throw ValidationError("--spin takes 0 to 1000000 microseconds") }
    }

    var spinNanoseconds: UInt64 {
        switch poll {
        case .busy: Self.busyNanoseconds
        case .adaptive: UInt64(spin) * 1_000
        case .event: 0
        }
    }
}
