import Glibc
import Handoff
import NativeHandoff
import PageCore
import PageFerry
import PageWire

/// Starts a QEMU that takes a guest over, and fills its memory.
struct QemuDestinationMigration {
    private enum Event: Sendable {
        case notice(DestinationNotice)
        case loaded
        case loadFailed(QemuError)
        case processEnded
        case signal(Int32)
    }

    private static let startTimeoutNanoseconds: UInt64 = 60_000_000_000
    private static let loadTimeoutNanoseconds: UInt64 = 120_000_000_000

    let command: DestinationCommand

    func run() throws(CommandFailure) {
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let commandLine = try attempt { () throws(QemuError) in try QemuCommandLine(command.command) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        if let state, let left = try state.read(DestinationState.self, from: DestinationState.name) {
            return try QemuTakeover(command: command, commandLine: commandLine, state: state).run(left)
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
        let handoff = if let state { try HandoffDirectory(in: state) } else { try HandoffDirectory() }
        let qemu: QemuDestination
        do throws(QemuError) {
            qemu = try QemuDestination(
                commandLine, preloadLibrary: shim, handoffPath: handoff.path,
                spareMonitorPath: state?.file(QemuTakeover.monitorName),
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
        // Kept open until the end: it tells the VMM's side that its memory is being served.
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
            regions = try receiveRegions(connection, commandLine)
            try attempt { () throws(QemuError) in try qemu.connect(timeoutNanoseconds: Self.startTimeoutNanoseconds) }
            if command.paging.prefault { try command.paging.prefault(regions) }
            try command.paging.confinement.begin()
        } catch {
            connector.refuse(.peerFailed(Failure(.virtualMachine, error.text)))
            throw error
        }
        let opened: OpenedDestination
        do throws(SessionError) { opened = try connector.accept(regions) } catch { throw CommandFailure(error) }
        var configuration = try command.paging.sessionConfiguration(for: opened.layout)
        var progress: TakeoverProgress?
        if let state {
            progress = try TakeoverProgress(state, opened, process: qemu.process)
            configuration.record = progress?.record
        }
        let socket = try attempt { () throws(QemuError) in try qemu.beginIncoming() }
        SwitchStep.loading.reached()
        let session = DestinationSession(opened, regions: regions, machineState: socket, configuration: configuration) {
            events.post(.notice($0))
        }
        let control = try DaemonControl(path: command.paging.pause.control) { address throws(CommandFailure) in
            try command.paging.security.check(address, command.paging.transport)
        }
        _ = control.addDestination(session, peer: command.paging.connect)
        watchProcess(qemu, events)
        let loader = load(qemu, events)
        let failure = serve(session, qemu, switchGuard, loader, progress, events, &isCommitted)
        session.join()
        let statistics = session.statistics.read()
        try command.report(session, error: failure?.text)
        if let failure {
            guard isCommitted else { throw failure }
            throw CommandFailure(
                "after the switch: \(failure.text); \(statistics.missingPages) of \(statistics.totalPages) pages are missing, the guest is frozen where it touches them",
                failure.status)
        }
        progress?.forget()
        Console.info("every page is here: \(Console.line(statistics))")
        _ = consume connection
        withExtendedLifetime(control) {}
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
        _ connection: borrowing HandoffConnection, _ commandLine: QemuCommandLine
    ) throws(CommandFailure) -> DestinationRegions {
        let handedOver = try attempt { () throws(HandoffError) in
            try connection.receiveRegions(takesRequests: false, timeoutNanoseconds: Self.startTimeoutNanoseconds)
        }
        let regions = try DestinationRegion.list(from: handedOver, in: commandLine)
        try attempt { () throws(HandoffError) in try connection.acknowledge() }
        return regions
    }

    private func watchProcess(_ qemu: QemuDestination, _ events: Mailbox<Event>) {
        let descriptor = qemu.processDescriptor
        guard descriptor >= 0 else { return }
        _ = DedicatedThread(name: "vmm-end") {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            // SAFETY: one local entry, for the duration of the call.
            while unsafe poll(&entry, 1, -1) <= 0 {}
            events.post(.processEnded)
        }
    }

    /// Waits for the machine state on a thread of its own; nobody else uses the monitor meanwhile.
    private func load(_ qemu: QemuDestination, _ events: Mailbox<Event>) -> DedicatedThread {
        let box = UncheckedBox(qemu)
        return DedicatedThread(name: "qmp") {
            do throws(QemuError) {
                try box.value.waitForLoaded(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + Self.loadTimeoutNanoseconds)
                events.post(.loaded)
            } catch {
                events.post(.loadFailed(error))
            }
        }
    }

    // MARK: The session

    /// Runs the session to its end.
    private func serve(
        _ session: DestinationSession, _ qemu: QemuDestination, _ switchGuard: SwitchGuard, _ loader: DedicatedThread,
        _ progress: TakeoverProgress?, _ events: Mailbox<Event>, _ isCommitted: inout Bool
    ) -> CommandFailure? {
        var failure: CommandFailure?
        var isLoading = true
        var signals = 0
        defer { if isLoading { qemu.kill(); loader.join() } }
        while true {
            let progressDeadline = MonotonicClock.nowNanoseconds() + 250_000_000
            guard let event = events.next(deadlineNanoseconds: progressDeadline) else {
                Console.progress(Console.line(session.statistics.read()))
                continue
            }
            switch event {
            case .loaded:
                loader.join()
                isLoading = false
                SwitchStep.loaded.reached()
                if let progress {
                    // A daemon that takes over may go on from here, so it must know before the source may commit.
                    progress.loaded()
                    switchGuard.release()
                }
                session.loaded()
                SwitchStep.confirmed.reached()
            case .loadFailed(let error):
                loader.join()
                isLoading = false
                failure = failure ?? CommandFailure(error)
                session.end(.peerFailed(Failure(.virtualMachine, "the destination's \(error.description)")))
            case .notice(.guestStopped), .notice(.allResident), .notice(.regionRemoved):
                break
            case .notice(.paused(let error)):
                Console.lost(error)
            case .notice(.restored):
                Console.info("the source was found again")
            case .notice(.committed):
                isCommitted = true
                progress?.committed()
                switchGuard.release()
                SwitchStep.taken.reached()
                do throws(QemuError) {
                    _ = try qemu.resume()
                    progress?.resumed()
                    SwitchStep.resumed.reached()
                    session.resumed()
                    Console.info("the guest runs here; its pages follow")
                } catch {
                    failure = CommandFailure(error)
                    session.end(.peerFailed(Failure(.virtualMachine, error.description)))
                }
            case .notice(.ended(let reason)):
                if failure == nil, let reason { failure = CommandFailure(reason) }
                return failure
            case .processEnded:
                failure = failure ?? CommandFailure("QEMU has ended", .software)
                session.end(.processEnded)
            case .signal:
                guard !isCommitted else {
                    if isPausedTwice(session, &signals) {
                        failure = CommandFailure("given up by a signal while the link was lost", .temporaryFailure)
                        session.end(.cancelled)
                        continue
                    }
                    Console.info("the guest runs here and its pages are still arriving; ending when they are in")
                    continue
                }
                failure = CommandFailure("cancelled; the guest goes on at the source", .temporaryFailure)
                session.end(.cancelled)
            }
        }
    }

    /// Whether a signal has come for the second time in a pause: the operator knows that the guest stays frozen then.
    private func isPausedTwice(_ session: DestinationSession, _ signals: inout Int) -> Bool {
        signals = session.statistics.read().phase == .postcopyPaused ? signals + 1 : 0
        if signals == 1 { Console.info("paused; a second signal gives up, and leaves the guest frozen where it touches missing pages") }
        return signals > 1
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
