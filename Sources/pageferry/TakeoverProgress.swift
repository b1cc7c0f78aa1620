import Handoff
import PageFerry

/// Puts down how far a destination's machine has come, step by step, for the daemon that takes over when this one dies.
final class TakeoverProgress {
    let record: ResidentRecord
    private let directory: StateDirectory
    private var state: DestinationState

    init(_ directory: StateDirectory, _ opened: OpenedDestination, process: Int32, backendNames: [String]?) throws(CommandFailure) {
        self.directory = directory
        record = try attempt { () throws(SessionError) in
            try ResidentRecord.create(path: directory.file(DestinationState.recordName), layout: opened.layout)
        }
        state = DestinationState(ticket: opened.ticket)
        guard let startTicks = AdoptedQemu.startTicks(of: process) else {
            throw CommandFailure("QEMU has ended; see its messages", .software)
        }
        state.machine = DestinationState.Machine(process: process, startTicks: startTicks)
        state.backendNames = backendNames
        try directory.write(state, to: DestinationState.name)
    }

    /// Goes on from what is there.
    init(_ directory: StateDirectory, _ state: DestinationState, _ record: ResidentRecord) {
        self.directory = directory
        self.state = state
        self.record = record
    }

    func loaded() { change { $0.standing = DestinationSession.Standing() } }
    func committed() { change { $0.standing?.isCommitted = true } }
    func resumed() { change { $0.standing?.isResumed = true } }

    private func change(_ body: (inout DestinationState) -> Void) {
        body(&state)
        do throws(CommandFailure) {
            try directory.write(state, to: DestinationState.name)
        } catch {
            // The guest matters more than the chance that this daemon dies too.
            Console.info("a daemon that takes over would not know all: \(error.text)")
        }
    }

    /// Nothing is left to be taken over.
    func forget() {
        directory.remove(DestinationState.name)
        directory.remove(DestinationState.recordName)
        directory.remove(QemuTakeover.monitorName)
    }
}
