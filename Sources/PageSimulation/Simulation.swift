/// Sessions under a virtual clock: the engines that run on the kernel, between a seeded network, seeded guests and
/// checkers of every invariant.
public enum Simulation {
    /// Runs the session of one seed. The same seed is the same session, event for event.
    ///
    /// - Parameters:
    ///   - bug: a deliberate fault to be caught, to see that the checkers look.
    ///   - trace: called with every event: virtual nanoseconds, then what happened.
    public static func run(
        seed: UInt64, bug: SeededBug? = nil, trace: ((String) -> Void)? = nil
    ) throws(SimulationFailure) -> SimulationOutcome {
        var session = SimulatedSession(seed: seed, bug: bug, tracer: trace)
        return try session.run()
    }

    /// Finds the first seed from `first` on, among `count`, in which a deliberate fault is caught.
    ///
    /// - Returns: nil when none of them catches it.
    public static func firstFailure(of bug: SeededBug, first: UInt64 = 0, count: Int) -> SimulationFailure? {
        for number in 0..<UInt64(count) {
            do throws(SimulationFailure) {
                _ = try run(seed: first &+ number, bug: bug)
            } catch {
                return error
            }
        }
        return nil
    }
}
