import Glibc
import Handoff
import NativeHandoff
import PageCore
import PageFerry
import PageWire

/// Takes a machine over with a QEMU that somebody else starts: it waits with -incoming defer, and its preload library hands its memory
/// over.
struct QemuHandoffMigration {
    private static let startTimeoutNanoseconds: UInt64 = 60_000_000_000

    let command: DestinationCommand
    let handoffPath: String
    let monitorPath: String

    func run() throws(CommandFailure) {
        var service = Service()
        let events = Mailbox<QemuDestinationSwitch.Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        let handoff = try HandoffDirectory(path: handoffPath, owner: command.handoffOwner?.identifier)
        if let state, let left = try state.read(DestinationState.self, from: DestinationState.name) {
            service.ready("taking over from a daemon that died; waiting for memory on \(handoffPath)")
            return try QemuTakeover(command: command, names: left.backendNames ?? [], state: state, monitorPath: monitorPath)
                .run(left, handoff)
        }
        service.ready("waiting for the memory of a QEMU on \(handoffPath)")
        guard let memory = try AwaitedMemory.receive(handoff.listener, again: false, isCancelled: { isCancelled(events) }) else { return }
        do throws(CommandFailure) {
            try takeOver(memory, state, events)
        } catch {
            // Heard as long as its hand-off is not answered; QEMU ends then.
            memory.refuse(error.text)
            throw error
        }
    }

    private func isCancelled(_ events: Mailbox<QemuDestinationSwitch.Event>) -> Bool {
        events.takeAll().contains { if case .signal = $0 { true } else { false } }
    }

    private func takeOver(
        _ memory: borrowing AwaitedMemory, _ state: StateDirectory?, _ events: Mailbox<QemuDestinationSwitch.Event>
    ) throws(CommandFailure) {
        guard let process = memory.peerProcess else {
            throw CommandFailure("the process that handed its memory over cannot be seen from here", .operatingSystem)
        }
        let adopted = try attempt { () throws(QemuError) in try AdoptedQemu(process: process) }
        // Only now: a source waits for one destination at a time.
        let connector = try command.paging.connector(features: .machineState)
        guard connector.features.contains(.machineState) else {
            connector.refuse(.peerFailed(Failure(.wrongRole, "the destination takes a virtual machine, the source serves a memory file")))
            throw CommandFailure(
                "the source serves a memory file, not a running machine; leave --qmp out here, or use --qmp there", .configuration)
        }
        let switchGuard: SwitchGuard
        do throws(CommandFailure) {
            switchGuard = try .ofDestination(process, handoff: nil)
            try attempt { () throws(QemuError) in try switchGuard.waitUntilReady(timeoutNanoseconds: Self.startTimeoutNanoseconds) }
        } catch {
            connector.refuse(.cancelled)
            throw error
        }
        let qemu = QemuDestination(adopting: adopted, monitorPath: monitorPath)
        // Whatever fails before the commit, it is ended, as QEMU itself ends when a migration fails on its way in.
        let names: [String]
        let regions: DestinationRegions
        do throws(CommandFailure) {
            (regions, names) = try prepare(qemu, memory, connector)
        } catch {
            connector.refuse(.peerFailed(Failure(.virtualMachine, error.text)))
            qemu.kill()
            throw error
        }
        var isCommitted = false
        do throws(CommandFailure) {
            try QemuDestinationSwitch(command: command, qemu: qemu, switchGuard: switchGuard, events: events, backendNames: names)
                .run(connector, regions, state, &isCommitted)
        } catch {
            if !isCommitted {
                qemu.kill()
                state?.remove(DestinationState.name)
            }
            throw error
        }
    }

    /// Answers the hand-off, and finds out which backend's each region is.
    private func prepare(
        _ qemu: QemuDestination, _ memory: borrowing AwaitedMemory, _ connector: borrowing DestinationConnector
    ) throws(CommandFailure) -> (regions: DestinationRegions, names: [String]) {
        SwitchStep.handedOver.reached()
        // Its monitor speaks once its memory is there.
        try memory.acknowledge()
        var mappings: [(address: UInt, lengthBytes: Int)] = []
        for index in 0..<memory.regions.count { mappings.append((memory.regions[index].address, memory.regions[index].lengthBytes)) }
        let names = try attempt { () throws(QemuError) in
            try qemu.connect(timeoutNanoseconds: Self.startTimeoutNanoseconds)
            return try qemu.backendNames(of: mappings)
        }
        let regions = try DestinationRegion.list(from: memory.regions, named: names)
        try command.paging.prefault(regions, from: connector)
        try command.paging.confinement.begin()
        return (regions, names)
    }
}
