import Glibc
import Handoff
import NativeHandoff
import PageCore
import PageFerry
import PageWire

/// Goes on with a machine whose destination's daemon has died: its memory is handed over again, its source is looked for.
struct QemuTakeover {
    private enum Event: Sendable {
        case notice(DestinationNotice)
        case processEnded
        case signal(Int32)
    }

    /// In the state directory: QEMU's spare monitor.
    static let monitorName = "qmp"

    let command: DestinationCommand
    /// Of the memory backends, in the order in which they are handed over.
    let names: [String]
    let state: StateDirectory
    let monitorPath: String

    func run(_ left: DestinationState, _ handoff: borrowing HandoffDirectory) throws(CommandFailure) {
        guard let machine = left.machine, let qemu = AdoptedQemu(process: machine.process, startTicks: machine.startTicks) else {
            forget()
            throw CommandFailure(
                "the machine that a daemon before this one has started has ended; its state is removed, start again", .software)
        }
        guard let standing = left.standing else {
            // The source cannot have committed: it goes on by itself.
            qemu.kill()
            forget()
            throw CommandFailure(
                "a daemon died before the machine was loaded; it is ended, the guest goes on at the source: start again", .temporaryFailure)
        }
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        Console.info("taking over the machine of process \(qemu.process) from a daemon that died")
        guard
            let memory = try AwaitedMemory.receive(handoff.listener, again: true, isCancelled: { qemu.waitForEnd(timeoutMilliseconds: 0) })
        else {
            forget()
            throw CommandFailure("QEMU has ended", .software)
        }
        let regions = try DestinationRegion.list(from: memory.regions, named: names)
        let record = try attempt { () throws(SessionError) in
            try ResidentRecord.open(path: state.file(DestinationState.recordName), layout: regions.layout)
        }
        let opened = OpenedDestination.takingOver(
            left.ticket, layout: regions.layout, address: try command.paging.sourceAddress(),
            configuration: try command.paging.connectorConfiguration(features: .machineState))
        var configuration = try command.paging.sessionConfiguration(for: regions.layout)
        configuration.takeover = DestinationSession.Takeover(record: record, standing: standing)
        let session = DestinationSession(opened, regions: regions, machineState: nil, configuration: configuration) {
            events.post(.notice($0))
        }
        let control = try DaemonControl(path: command.paging.pause.control) { address throws(CommandFailure) in
            try command.paging.security.check(address, command.paging.transport)
        }
        _ = control.addDestination(session, peer: command.paging.connect)
        try command.paging.confinement.begin()
        try memory.acknowledge()
        try finish(session, qemu, TakeoverProgress(state, left, record), standing, events)
        // Somebody else's is theirs to wait for.
        if !command.detach, command.qmp == nil { waitForEnd(qemu, events) }
        // Kept open until here: it tells the VMM's side that its memory is being served.
        _ = consume memory
        withExtendedLifetime(control) {}
    }

    private func finish(
        _ session: DestinationSession, _ qemu: AdoptedQemu, _ progress: TakeoverProgress, _ standing: DestinationSession.Standing,
        _ events: Mailbox<Event>
    ) throws(CommandFailure) {
        watch(qemu, events)
        // A daemon that died between the commit and the guest's start leaves that to this one.
        if standing.isCommitted, !standing.isResumed { resume(session, qemu, progress) }
        let (isCommitted, failure) = serve(session, qemu, progress, standing.isCommitted, events)
        session.join()
        let statistics = session.statistics.read()
        try command.report(session, error: failure?.text)
        guard let failure else {
            progress.forget()
            Console.info("every page is here: \(Console.line(statistics))")
            return
        }
        if !isCommitted {
            qemu.kill()
            forget()
            throw failure
        }
        throw CommandFailure(
            "after the switch: \(failure.text); \(statistics.missingPages) of \(statistics.totalPages) pages are missing, the guest is frozen where it touches them",
            failure.status)
    }

    private func serve(
        _ session: DestinationSession, _ qemu: AdoptedQemu, _ progress: TakeoverProgress, _ wasCommitted: Bool, _ events: Mailbox<Event>
    ) -> (isCommitted: Bool, failure: CommandFailure?) {
        var isCommitted = wasCommitted
        var failure: CommandFailure?
        var signals = 0
        while true {
            guard let event = events.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 250_000_000) else {
                Console.progress(Console.line(session.statistics.read()))
                continue
            }
            switch event {
            case .notice(.committed):
                isCommitted = true
                progress.committed()
                resume(session, qemu, progress)
            case .notice(.paused(let error)):
                Console.lost(error)
            case .notice(.restored):
                Console.info("the source was found")
            case .notice(.ended(let reason)):
                return (isCommitted, failure ?? reason.map { CommandFailure($0) })
            case .notice:
                continue
            case .processEnded:
                failure = failure ?? CommandFailure("QEMU has ended", .software)
                session.end(.processEnded)
            case .signal:
                signals = session.statistics.read().phase == .postcopyPaused ? signals + 1 : 0
                if signals > 1 {
                    failure = CommandFailure("given up by a signal while the link was lost", .temporaryFailure)
                    session.end(.cancelled)
                } else {
                    Console.info("the guest's pages are still arriving; while the link is lost, a second signal gives up")
                }
            }
        }
    }

    private func resume(_ session: DestinationSession, _ qemu: AdoptedQemu, _ progress: TakeoverProgress) {
        do throws(QemuError) {
            try qemu.resume(monitorPath: monitorPath)
            progress.resumed()
            session.resumed()
            Console.info("the guest runs here; its pages follow")
        } catch {
            Console.error("\(error); let the guest run by `cont` on its monitor '\(monitorPath)'")
        }
    }

    private func watch(_ qemu: AdoptedQemu, _ events: Mailbox<Event>) {
        let box = UncheckedBox(qemu)
        _ = DedicatedThread(name: "vmm-end") {
            while !box.value.waitForEnd(timeoutMilliseconds: -1) {}
            events.post(.processEnded)
        }
    }

    private func waitForEnd(_ qemu: AdoptedQemu, _ events: Mailbox<Event>) {
        while !qemu.waitForEnd(timeoutMilliseconds: 200) {
            for event in events.takeAll() {
                if case .signal = event { qemu.terminate() }
            }
        }
    }

    private func forget() {
        for name in [DestinationState.name, DestinationState.recordName, Self.monitorName] { state.remove(name) }
    }
}
