import PageCore
import PageEngine
import PageFerry

/// Serves the same memory to any number of destinations, each on a thread of its own.
struct ImageService {
    /// Begins to serve a destination.
    typealias Start = @Sendable (OpenedSource, @escaping @Sendable (SourceNotice) -> Void) -> SourceSession

    enum Event: Sendable {
        case opened(OpenedSource)
        case refused(String, SessionError)
        case acceptFailed(SessionError)
        case ended(Int, String, SessionError?)
        /// Of a cache: what becomes of the session that fills it.
        case filling(DestinationNotice)
        case signal(Int32)
    }

    let startSession: Start
    let server: SourceServer
    /// Sessions after which it ends; 0 for none.
    let mostSessions: Int
    /// Where sessions are put down before their destinations hear of them; nil for nowhere.
    let state: StateDirectory?
    let control: DaemonControl
    let confinement: ConfinementArguments
    /// What is made of the session that fills the image; nil for one that is whole.
    var filling: ((DestinationNotice) throws(CommandFailure) -> Void)?
    /// Throws once what is served can no longer be had; asked a few times a second. nil for what nobody can change.
    var verify: (() throws(CommandFailure) -> Void)?

    private static let verifyIntervalNanoseconds: UInt64 = 200_000_000

    func run(_ events: Mailbox<Event>) throws(CommandFailure) {
        let server = server
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
        control.listens(with: server)
        try confinement.begin()
        try serve(events)
    }

    private func serve(_ events: Mailbox<Event>) throws(CommandFailure) {
        var running: [Int: (session: SourceSession, controlNumber: Int)] = [:]
        var started = 0
        var ended = 0
        var failure: CommandFailure?
        while true {
            if failure == nil { failure = lost(running.values.map(\.session)) }
            if let failure, running.isEmpty { throw failure }
            let deadline = verify == nil ? nil : MonotonicClock.nowNanoseconds() + Self.verifyIntervalNanoseconds
            guard let event = events.next(deadlineNanoseconds: deadline) else { continue }
            switch event {
            case .opened(let opened):
                if let failure {
                    opened.refuse(.memoryLost(failure.text))
                    server.sessionEnded()
                    continue
                }
                started += 1
                Console.info("session \(started): \(opened.peer) pulls")
                let session = start(opened, started, events)
                running[started] = (session, control.addSource(session, peer: opened.peer))
                session.guestStopped()
            case .ended(let number, let peer, let reason):
                var sentBytes = 0
                if let (session, controlNumber) = running.removeValue(forKey: number) {
                    session.join()
                    sentBytes = session.statistics.read().counts.contentBytes
                    control.remove(controlNumber)
                }
                server.sessionEnded()
                ended += 1
                Console.info(
                    "session \(number): \(peer) " + (reason.map { "ended: \($0)" } ?? "has every page") + "; \(sentBytes >> 10) KiB sent")
                if mostSessions > 0, ended >= mostSessions { return }
            case .refused(let peer, let error):
                Console.info("refused \(peer): \(error)")
            case .acceptFailed(let error):
                throw CommandFailure(error)
            case .filling(let notice):
                try filling?(notice)
            case .signal:
                // Sessions of a cache may wait for pages: they end with the process.
                guard filling == nil else { return }
                for (session, _) in running.values { session.end(.cancelled) }
                for (session, _) in running.values { session.join() }
                return
            }
        }
    }

    /// - Returns: why the memory can no longer be had; its sessions then end that owe pages of it.
    private func lost(_ running: [SourceSession]) -> CommandFailure? {
        do throws(CommandFailure) {
            try verify?()
            return nil
        } catch {
            for session in running { session.memoryLost(.memoryLost(error.text)) }
            return error
        }
    }

    private func start(_ opened: OpenedSource, _ number: Int, _ events: Mailbox<Event>) -> SourceSession {
        let ticket = opened.ticket
        let state = state
        return startSession(opened) { notice in
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
    }
}

extension ImageService {
    /// Sessions that read one image.
    static func serving(_ image: SourceImage, _ configuration: SourceSession.Configuration) -> Start {
        { SourceSession($0, memory: image, machineState: nil, configuration: configuration, notify: $1) }
    }
}

extension SourceServer.Configuration {
    /// Puts sessions down before their destinations hear of them, and takes over what a daemon before this one has left: its
    /// destinations will come.
    func keepingSessions(in state: StateDirectory) throws(CommandFailure) -> SourceServer.Configuration {
        var configuration = self
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
}
