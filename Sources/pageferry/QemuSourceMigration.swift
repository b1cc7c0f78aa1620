import Glibc
import Handoff
import PageCore
import PageFerry
import PageWire
import StreamTransport

/// Hands one running QEMU over to one destination.
///
/// The switch is one point, the commit: the release of the guard in `switchOver`. Before it, whatever fails leaves the guest
/// running here, be it that this process is killed; after it, the guest never runs here again. See `SwitchStep`.
struct QemuSourceMigration {
    private enum Event: Sendable {
        case notice(SourceNotice)
        case stopped(UInt64)
        case completed
        case failed(QemuError)
        case signal(Int32)
    }

    /// How long QEMU may take to stop the guest, and the destination to load its machine state.
    private static let switchTimeoutNanoseconds: UInt64 = 120_000_000_000

    private static let guardTimeoutNanoseconds: UInt64 = 30_000_000_000

    let command: SourceCommand
    let qmpPath: String

    func run() throws(CommandFailure) {
        var service = Service()
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        let qemu = try attempt { () throws(QemuError) in try QemuSource(connectingTo: qmpPath) }
        let left = try leftBehind(state, qemu)
        let backends = try attempt { () throws(QemuError) in left == nil ? try qemu.inspect() : try qemu.inspectCommitted() }
        let image = try attempt { () throws(SessionError) in
            try SourceImage(
                backends.map { backend in
                    SourceRegionDescriptor(
                        name: backend.name, descriptor: backend.descriptor, fileOffset: backend.fileOffset,
                        lengthBytes: backend.lengthBytes)
                })
        }
        let listener = try command.openListener()
        service.ready(
            "serving the machine at \(qmpPath) (\(image.layout.totalBytes >> 20) MiB) on \(listener.description)")
        var configuration = try command.serverConfiguration(features: .machineState, mostSessions: 1)
        configuration.expected = left.map { [$0.ticket] } ?? []
        // Without them everything is made ready, which is right too.
        configuration.toldImage = { (try? image.findHoles()).map { image } }
        let server = SourceServer(listener: listener, layout: image.layout, configuration: configuration)
        defer { server.stop() }
        let control = try DaemonControl(path: command.pause.control) { address throws(CommandFailure) in
            try command.security.check(address, command.transport)
        }
        control.listens(with: server)
        if let left {
            Console.info("took the switched machine over from a daemon that died; waiting for \(left.peer)")
        }
        guard let opened = try waitForDestination(server, events) else { return }
        if left != nil { return try goOn(qemu, image, opened, state, control, events) }
        Console.info("\(opened.peer) takes the machine over")
        do throws(SessionError) {
            try opened.prepare(image)
            try image.findHoles()
        } catch {
            opened.refuse(error)
            throw CommandFailure(error)
        }
        try migrate(qemu, image, opened, state, control, events)
    }

    /// What a daemon before this one has left of a switch that was committed; nil when there is none. One that was not is undone:
    /// the guest runs here.
    private func leftBehind(_ state: StateDirectory?, _ qemu: QemuSource) throws(CommandFailure) -> SourceState? {
        guard let state, let name = state.names(prefix: SourceState.prefix).first,
            let left = try state.read(SourceState.self, from: name)
        else { return nil }
        if left.isCommitted { return left }
        try attempt { () throws(QemuError) in try qemu.recoverGuest() }
        state.remove(name)
        Console.info("a daemon died before the switch; the guest runs on here")
        return nil
    }

    /// Serves the rest of a machine that another daemon has committed.
    private func goOn(
        _ qemu: QemuSource, _ image: SourceImage, _ opened: OpenedSource, _ state: StateDirectory?, _ control: DaemonControl,
        _ events: Mailbox<Event>
    ) throws(CommandFailure) {
        try attempt { () throws(SessionError) in try image.findHoles() }
        try command.confinement.begin()
        Console.info("\(opened.peer) is back")
        let session = SourceSession(opened, memory: image, machineState: nil, configuration: command.sessionConfiguration) { notice in
            forget(opened.ticket, state, notice)
            events.post(.notice(notice))
        }
        _ = control.addSource(session, peer: opened.peer)
        session.guestStopped()
        session.commit()
        let outcome = follow(session, events, state: nil, ticket: nil, nil)
        session.join()
        try finish(qemu, session.statistics.read(), outcome)
    }

    /// Every page is across: before the destination hears that this is known, what a next daemon would need goes.
    private func forget(_ ticket: SessionTicket, _ state: StateDirectory?, _ notice: SourceNotice) {
        if case .allResident = notice { state?.remove(SourceState.name(ticket)) }
    }

    /// - Returns: nil when a signal came first.
    private func waitForDestination(_ server: SourceServer, _ events: Mailbox<Event>) throws(CommandFailure) -> OpenedSource? {
        while true {
            let opened = try attempt { () throws(SessionError) in
                try server.nextSession(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 200_000_000) { peer, error in
                    Console.info("refused \(peer): \(error)")
                }
            }
            if let opened { return opened }
            for event in events.takeAll() {
                if case .signal = event { return nil }
            }
        }
    }

    private func migrate(
        _ qemu: QemuSource, _ image: SourceImage, _ opened: OpenedSource, _ state: StateDirectory?, _ control: DaemonControl,
        _ events: Mailbox<Event>
    ) throws(CommandFailure) {
        let ticket = opened.ticket
        try state?.write(SourceState(ticket: ticket, peer: opened.peer), to: SourceState.name(ticket))
        let session: SourceSession
        let switchGuard: SwitchGuard
        do throws(CommandFailure) {
            switchGuard = try .ofSource(qemu, qmp: qmpPath)
            try attempt { () throws(QemuError) in try switchGuard.waitUntilReady(timeoutNanoseconds: Self.guardTimeoutNanoseconds) }
            try command.confinement.begin()
        } catch {
            state?.remove(SourceState.name(ticket))
            opened.refuse(.cancelled)
            throw error
        }
        do throws(QemuError) {
            try qemu.prepare()
            SwitchStep.prepared.reached()
            let socket = try qemu.beginMigration()
            session = SourceSession(
                opened, memory: image, machineState: socket, configuration: command.sessionConfiguration
            ) { notice in
                forget(ticket, state, notice)
                events.post(.notice(notice))
            }
        } catch {
            state?.remove(SourceState.name(ticket))
            opened.refuse(.peerFailed(Failure(.virtualMachine, error.description)))
            try recover(qemu, CommandFailure(error))
        }
        _ = control.addSource(session, peer: opened.peer)
        SwitchStep.started.reached()
        let follower = follow(qemu, events)
        let outcome = follow(session, events, state: state, ticket: ticket, switchGuard)
        // The session has ended, so QEMU's migration has too: the follower returns.
        follower.join()
        session.join()
        // Before the switch nothing is to be taken over; after it, what failed is left for a daemon that may do better.
        if !outcome.isCommitted { state?.remove(SourceState.name(ticket)) }
        try finish(qemu, session.statistics.read(), outcome)
    }

    private func finish(
        _ qemu: QemuSource, _ statistics: SessionStatistics, _ outcome: (isCommitted: Bool, failure: CommandFailure?)
    ) throws(CommandFailure) {
        if let json = command.json {
            try JSONFile.write(SessionReport(side: "source", statistics, error: outcome.failure?.text), to: json)
        }
        if let failure = outcome.failure {
            guard outcome.isCommitted else { try recover(qemu, failure) }
            throw CommandFailure(
                "after the switch: \(failure.text); \(statistics.missingPages) of \(statistics.totalPages) pages were not sent, this QEMU keeps them: do not end or resume it",
                failure.status)
        }
        Console.info("every page is at the destination; this QEMU is not needed any more")
        if command.quitSource { try attempt { () throws(QemuError) in try qemu.quit() } }
    }

    /// Follows QEMU's own view of the migration on a thread of its own; nobody else uses the connection meanwhile.
    private func follow(_ qemu: QemuSource, _ events: Mailbox<Event>) -> DedicatedThread {
        let box = UncheckedBox(qemu)
        return DedicatedThread(name: "qmp") {
            do throws(QemuError) {
                let deadline = MonotonicClock.nowNanoseconds() + Self.switchTimeoutNanoseconds
                events.post(.stopped(try box.value.waitForStop(deadlineNanoseconds: deadline)))
                try box.value.waitForCompletion(deadlineNanoseconds: deadline)
                events.post(.completed)
            } catch {
                events.post(.failed(error))
            }
        }
    }

    /// Runs the session to its end.
    ///
    /// - Parameters:
    ///   - state: where the commit is put down before the destination hears of it.
    ///   - switchGuard: nil when another daemon has committed already.
    private func follow(
        _ session: SourceSession, _ events: Mailbox<Event>, state: StateDirectory?, ticket: SessionTicket?, _ switchGuard: SwitchGuard?
    ) -> (isCommitted: Bool, failure: CommandFailure?) {
        var isLoaded = false
        var isCompleted = false
        var isCommitted = switchGuard == nil
        var failure: CommandFailure?
        while true {
            let progressDeadline = MonotonicClock.nowNanoseconds() + 250_000_000
            guard let event = events.next(deadlineNanoseconds: progressDeadline) else {
                Console.progress(Console.line(session.statistics.read()))
                continue
            }
            switch event {
            case .stopped:
                SwitchStep.stopped.reached()
                session.guestStopped()
            case .completed:
                isCompleted = true
            case .failed(let error):
                // After the commit QEMU has nothing more to say that matters.
                guard !isCommitted else { continue }
                failure = CommandFailure(error)
                session.end(.peerFailed(Failure(.virtualMachine, "the source's \(error.description)")))
            case .notice(.loaded):
                isLoaded = true
            case .notice(.resumed):
                Console.info("the guest runs at the destination")
            case .notice(.allResident):
                break
            case .notice(.paused(let error)):
                Console.info("\(error); paused: waiting for the destination, its pages are kept")
            case .notice(.restored):
                Console.info("the destination is back")
            case .notice(.ended(let reason)):
                if failure == nil, let reason { failure = CommandFailure(reason) }
                // A session that had ended before it took the commit has sent none, unless a daemon before this one had.
                return (switchGuard == nil || session.isCommitted, failure)
            case .signal:
                guard !isCommitted else {
                    Console.info("the guest has left already: its last pages are only here; ending when they are across")
                    continue
                }
                failure = CommandFailure("cancelled; the guest goes on here", .temporaryFailure)
                session.end(.cancelled)
            }
            if isLoaded, isCompleted, !isCommitted, failure == nil, let switchGuard {
                SwitchStep.completed.reached()
                // From here on no guard makes the guest run here, and then no daemon after this one. That is the commit.
                switchGuard.release()
                do throws(CommandFailure) {
                    if let state, let ticket { try putDownCommit(state, ticket) }
                } catch {
                    failure = error
                    session.end(.peerFailed(Failure(.unspecified, "the source cannot put the switch on record")))
                    continue
                }
                isCommitted = true
                SwitchStep.committed.reached()
                session.commit()
                SwitchStep.announced.reached()
            }
        }
    }

    /// A daemon started after this one has died must know that the guest may never run here again.
    private func putDownCommit(_ state: StateDirectory, _ ticket: SessionTicket) throws(CommandFailure) {
        let name = SourceState.name(ticket)
        guard var left = try state.read(SourceState.self, from: name) else { return }
        left.isCommitted = true
        try state.write(left, to: name)
    }

    /// Before the switch: the guest runs on here, and the failure is reported.
    private func recover(_ qemu: QemuSource, _ failure: CommandFailure) throws(CommandFailure) -> Never {
        try attempt { () throws(QemuError) in try qemu.recoverGuest() }
        throw CommandFailure("\(failure.text); the guest runs on here", failure.status)
    }
}

/// Carries an object to the one thread that uses it from then on.
///
/// SAFETY: the sender does not touch the object until that thread has been joined.
struct UncheckedBox<Value: AnyObject>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
