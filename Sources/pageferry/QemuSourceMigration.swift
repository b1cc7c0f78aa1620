import Glibc
import Handoff
import PageCore
import PageFerry
import PageWire
import StreamTransport

/// Hands one running QEMU over to one destination.
///
/// The switch is one point: the moment `commit` is sent. Before it, whatever fails leaves the guest running here; after
/// it, the guest never runs here again.
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

    let command: SourceCommand
    let qmpPath: String

    func run() throws(CommandFailure) {
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let qemu = try attempt { () throws(QemuError) in try QemuSource(connectingTo: qmpPath) }
        let backends = try attempt { () throws(QemuError) in try qemu.inspect() }
        let image = try attempt { () throws(SessionError) in
            try SourceImage(backends.map { backend in
                SourceRegionDescriptor(
                    name: backend.name, descriptor: backend.descriptor, fileOffset: backend.fileOffset,
                    lengthBytes: backend.lengthBytes)
            })
        }
        let listener = try command.openListener()
        Console.info(
            "serving the machine at \(qmpPath) (\(image.layout.totalBytes >> 20) MiB) on \(listener.description)")
        let server = SourceServer(
            listener: listener, layout: image.layout,
            configuration: command.serverConfiguration(features: .machineState, mostSessions: 1))
        defer { server.stop() }
        guard let opened = try waitForDestination(server, events) else { return }
        Console.info("\(opened.peer) takes the machine over")
        do throws(SessionError) {
            try opened.prepare(image)
            try image.findHoles()
        } catch {
            opened.refuse(error)
            throw CommandFailure(error)
        }
        try migrate(qemu, image, opened, events)
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
        _ qemu: QemuSource, _ image: SourceImage, _ opened: OpenedSource, _ events: Mailbox<Event>
    ) throws(CommandFailure) {
        let session: SourceSession
        do throws(QemuError) {
            try qemu.prepare()
            let socket = try qemu.beginMigration()
            session = SourceSession(
                opened, memory: image, machineState: socket, configuration: command.sessionConfiguration
            ) { events.post(.notice($0)) }
        } catch {
            opened.refuse(.peerFailed(Failure(.virtualMachine, error.description)))
            try recover(qemu, CommandFailure(error))
        }
        let follower = follow(qemu, events)
        let outcome = switchOver(session, events)
        // The session has ended, so QEMU's migration has too: the follower returns.
        follower.join()
        session.join()
        let statistics = session.statistics.read()
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
    private func switchOver(
        _ session: SourceSession, _ events: Mailbox<Event>
    ) -> (isCommitted: Bool, failure: CommandFailure?) {
        var isLoaded = false
        var isCompleted = false
        var isCommitted = false
        var failure: CommandFailure?
        while true {
            let progressDeadline = MonotonicClock.nowNanoseconds() + 250_000_000
            guard let event = events.next(deadlineNanoseconds: progressDeadline) else {
                Console.progress(Console.line(session.statistics.read()))
                continue
            }
            switch event {
            case .stopped:
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
                return (isCommitted, failure)
            case .signal:
                guard !isCommitted else {
                    Console.info("the guest has left already: its last pages are only here; ending when they are across")
                    continue
                }
                failure = CommandFailure("cancelled; the guest goes on here", .temporaryFailure)
                session.end(.cancelled)
            }
            if isLoaded, isCompleted, !isCommitted, failure == nil {
                isCommitted = true
                session.commit()
            }
        }
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
