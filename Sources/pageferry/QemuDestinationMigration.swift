import Glibc
import Handoff
import NativeHandoff
import PageCore
import PageFerry
import PageWire

/// Starts a QEMU that takes a guest over, and fills its memory.
struct QemuDestinationMigration {
    private typealias Event = QemuDestinationSwitch.Event

    private static let startTimeoutNanoseconds: UInt64 = 60_000_000_000

    let command: DestinationCommand

    func run() throws(CommandFailure) {
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let commandLine = try attempt { () throws(QemuError) in try QemuCommandLine(command.command) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        if let state, let left = try state.read(DestinationState.self, from: DestinationState.name) {
            return try QemuTakeover(
                command: command, names: commandLine.backendNames, state: state, monitorPath: state.file(QemuTakeover.monitorName)
            ).run(left, HandoffDirectory(in: state))
        }
        guard let shim = command.shim ?? Executable.companion("libpageferry-preload.so") else {
            throw CommandFailure("libpageferry-preload.so is not beside this program; give its path with --shim", .configuration)
        }
        let connector = try command.paging.connector(features: .machineState)
        guard connector.features.contains(.machineState) else {
            connector.refuse(.peerFailed(Failure(.wrongRole, "the destination starts a virtual machine, the source serves a memory file")))
            throw CommandFailure(
                "the source serves a memory file, not a running machine; use --handoff PATH here, or --qmp there", .configuration)
        }
        let owner = command.handoffOwner?.identifier
        let handoff = if let state { try HandoffDirectory(in: state, owner: owner) } else { try HandoffDirectory(owner: owner) }
        let device = UserfaultDevice(isWanted: owner != nil)
        let qemu: QemuDestination
        do throws(QemuError) {
            qemu = try QemuDestination(
                commandLine, preloadLibrary: shim, handoffPath: handoff.path,
                spareMonitorPath: state?.file(QemuTakeover.monitorName), userfaultDevice: device.descriptor,
                // It passes through this process otherwise, which is not to be missed when it dies.
                keepsErrorOutput: !command.detach && state == nil)
        } catch {
            connector.refuse(.peerFailed(Failure(.virtualMachine, error.description)))
            throw CommandFailure(error)
        }
        // Until the hand-off is acknowledged the preload library ends a QEMU whose daemon has gone; the guard does from then on.
        let switchGuard: SwitchGuard
        do throws(CommandFailure) {
            switchGuard = try .ofDestination(qemu.process, handoff: handoff.directory)
        } catch {
            connector.refuse(.cancelled)
            qemu.kill()
            throw error
        }
        var isCommitted = false
        do throws(CommandFailure) {
            try takeOver(qemu, switchGuard, commandLine, connector, handoff, state, events, &isCommitted)
        } catch {
            if !isCommitted {
                qemu.kill()
                state?.remove(DestinationState.name)
            }
            throw error
        }
        if !command.detach { try waitForEnd(qemu, events) }
    }

    private func takeOver(
        _ qemu: QemuDestination, _ switchGuard: SwitchGuard, _ commandLine: QemuCommandLine, _ connector: consuming DestinationConnector,
        _ handoff: borrowing HandoffDirectory, _ state: StateDirectory?, _ events: Mailbox<Event>, _ isCommitted: inout Bool
    ) throws(CommandFailure) {
        let connection: HandoffConnection
        do throws(CommandFailure) {
            connection = try acceptHandoff(qemu, handoff)
        } catch {
            connector.refuse(.peerFailed(Failure(.virtualMachine, error.text)))
            throw error
        }
        let regions: DestinationRegions
        do throws(CommandFailure) {
            try attempt { () throws(QemuError) in try switchGuard.waitUntilReady(timeoutNanoseconds: Self.startTimeoutNanoseconds) }
            SwitchStep.handedOver.reached()
            regions = try receiveRegions(connection, commandLine, qemu)
            try attempt { () throws(QemuError) in try qemu.connect(timeoutNanoseconds: Self.startTimeoutNanoseconds) }
            try command.paging.prefault(regions, from: connector)
            try command.paging.confinement.begin()
        } catch {
            connector.refuse(.peerFailed(Failure(.virtualMachine, error.text)))
            throw error
        }
        try QemuDestinationSwitch(command: command, qemu: qemu, switchGuard: switchGuard, events: events)
            .run(connector, regions, state, &isCommitted)
        // Kept open until here: it tells the VMM's side that its memory is being served.
        _ = consume connection
    }

    // MARK: Set-up

    /// Waits for the preload library in the new QEMU, unless that ends first.
    private func acceptHandoff(_ qemu: QemuDestination, _ handoff: borrowing HandoffDirectory) throws(CommandFailure) -> HandoffConnection {
        let deadline = MonotonicClock.nowNanoseconds() + Self.startTimeoutNanoseconds
        while true {
            do throws(HandoffError) {
                return try handoff.listener.accept(timeoutNanoseconds: 100_000_000)
            } catch .timedOut {
                if let error = qemu.endError { throw CommandFailure(error) }
                guard MonotonicClock.nowNanoseconds() < deadline else {
                    throw CommandFailure("QEMU handed no memory over; check that its memory backend has share=on", .configuration)
                }
            } catch {
                throw CommandFailure(error)
            }
        }
    }

    /// The regions in the order in which the source lists them, whatever the order in which QEMU has mapped them.
    private func receiveRegions(
        _ connection: borrowing HandoffConnection, _ commandLine: QemuCommandLine, _ qemu: QemuDestination
    ) throws(CommandFailure) -> DestinationRegions {
        let handedOver: HandedOverRegions
        do throws(HandoffError) {
            handedOver = try connection.receiveRegions(takesRequests: false, timeoutNanoseconds: Self.startTimeoutNanoseconds)
        } catch {
            // What its preload library has said, when that was the end of it, says more.
            if case .connectionEnded = error, qemu.waitForEnd(timeoutMilliseconds: 1_000) != nil, let end = qemu.endError {
                throw CommandFailure(end)
            }
            throw CommandFailure(error)
        }
        let regions = try DestinationRegion.list(from: handedOver, named: commandLine.backendNames)
        try attempt { () throws(HandoffError) in try connection.acknowledge() }
        return regions
    }

    private func waitForEnd(_ qemu: QemuDestination, _ events: Mailbox<Event>) throws(CommandFailure) {
        while true {
            guard let code = qemu.waitForEnd(timeoutMilliseconds: 200) else {
                // QEMU is in a session of its own: the terminal's signals come to us alone, and are passed on now.
                for event in events.takeAll() {
                    if case .signal = event { qemu.terminate() }
                }
                continue
            }
            if code != 0 { throw CommandFailure("QEMU ended with status \(code)", .software) }
            return
        }
    }
}
