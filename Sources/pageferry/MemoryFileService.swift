import Glibc
import HostMemory
import PageCore
import PageFerry
import StreamTransport

/// Serves an immutable memory file to any number of destinations, each on a thread of its own.
struct MemoryFileService {
    private enum Event: Sendable {
        case opened(OpenedSource)
        case refused(String, SessionError)
        case acceptFailed(SessionError)
        case ended(Int, String, SessionError?)
        case signal(Int32)
    }

    let command: SourceCommand
    let path: String

    init(command: SourceCommand, path: String) {
        self.command = command
        self.path = path
    }

    func run() throws(CommandFailure) {
        var service = Service()
        let image = try attempt { () throws(SessionError) in
            try SourceImage(path: path, pageSize: command.pageSize.flatMap { PageSize(bytes: $0.bytes) })
        }
        try attempt { () throws(SessionError) in try image.findHoles() }
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        let listener = try command.openListener()
        service.ready("serving \(path) (\(image.layout.totalBytes >> 20) MiB) on \(listener.description)")
        var configuration = try command.serverConfiguration(features: [], mostSessions: 64)
        if let state { configuration = try keepingSessions(in: state, configuration) }
        let server = SourceServer(listener: listener, layout: image.layout, configuration: configuration)
        let acceptor = DedicatedThread(name: "sessions") {
            do throws(SessionError) {
                while let opened = try server.nextSession(refused: { events.post(.refused($0, $1)) }) {
                    events.post(.opened(opened))
                }
            } catch {
                events.post(.acceptFailed(error))
            }
        }
        defer {
            server.stop()
            acceptor.join()
        }
        let control = try DaemonControl(path: command.pause.control) { address throws(CommandFailure) in
            try command.security.check(address, command.transport)
        }
        control.listens(with: server)
        try command.confinement.begin()
        try serve(image, server, state, control, events)
    }

    /// Puts sessions down before their destinations hear of them, and takes over what a daemon before this one has left: its
    /// destinations will come.
    private func keepingSessions(
        in state: StateDirectory, _ configuration: SourceServer.Configuration
    ) throws(CommandFailure) -> SourceServer.Configuration {
        var configuration = configuration
        configuration.willOffer = { (ticket, peer) throws(SessionError) in
            do throws(CommandFailure) {
                try state.write(SourceState(ticket: ticket, peer: peer), to: SourceState.name(ticket))
            } catch {
                throw .cannotKeepSession(error.text)
            }
        }
        configuration.didWithdraw = { state.remove(SourceState.name($0)) }
        for (number, name) in state.names(prefix: SourceState.prefix).enumerated() {
            // The oldest of so many are of destinations that were offered a session and never opened it.
            guard number < SourceState.mostSessions, let left = try state.read(SourceState.self, from: name) else {
                state.remove(name)
                continue
            }
            configuration.expected.append(left.ticket)
            Console.info("took the session of \(left.peer) over; waiting for it")
        }
        return configuration
    }

    private func serve(
        _ image: SourceImage, _ server: SourceServer, _ state: StateDirectory?, _ control: DaemonControl,
        _ events: Mailbox<Event>
    ) throws(CommandFailure) {
        var running: [Int: (session: SourceSession, controlNumber: Int)] = [:]
        var started = 0
        var ended = 0
        while let event = events.next() {
            switch event {
            case .opened(let opened):
                started += 1
                let number = started
                Console.info("session \(number): \(opened.peer) pulls")
                let ticket = opened.ticket
                let session = SourceSession(
                    opened, memory: image, machineState: nil, configuration: command.sessionConfiguration
                ) { notice in
                    switch notice {
                    case .allResident:
                        // Before the destination hears of it: one that asks later asks in vain, and knows why.
                        state?.remove(SourceState.name(ticket))
                    case .ended(let reason):
                        state?.remove(SourceState.name(ticket))
                        events.post(.ended(number, opened.peer, reason))
                    case .paused(let error): Console.info("session \(number): \(error); waiting for \(opened.peer)")
                    case .restored: Console.info("session \(number): \(opened.peer) is back")
                    default: break
                    }
                }
                running[number] = (session, control.addSource(session, peer: opened.peer))
                session.guestStopped()
            case .ended(let number, let peer, let reason):
                if let (session, controlNumber) = running.removeValue(forKey: number) {
                    session.join()
                    control.remove(controlNumber)
                }
                server.sessionEnded()
                ended += 1
                Console.info("session \(number): \(peer) " + (reason.map { "ended: \($0)" } ?? "has every page"))
                if command.sessions > 0, ended >= command.sessions { return }
            case .refused(let peer, let error):
                Console.info("refused \(peer): \(error)")
            case .acceptFailed(let error):
                throw CommandFailure(error)
            case .signal:
                for (session, _) in running.values { session.end(.cancelled) }
                for (session, _) in running.values { session.join() }
                return
            }
        }
    }
}
