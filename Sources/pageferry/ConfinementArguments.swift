import ArgumentParser
import Confinement

/// Whether a daemon gives up what it does not need once it serves.
struct ConfinementArguments: ParsableArguments {
    @Flag(
        inversion: .prefixedNo,
        help: "Filter the daemon's system calls once its set-up is over (seccomp): it starts no program from then on.")
    var confine = true

    /// Set-up is over: every program this daemon starts runs, every library is loaded.
    func begin() throws(CommandFailure) {
        guard confine else { return }
        do throws(ConfinementError) {
            try SystemCallFilter.begin()
        } catch {
            throw CommandFailure(error.description, .operatingSystem)
        }
    }
}
