import CPageFerry
import PageCore
import PageFerry
import SecureStream
import StreamTransport
import Synchronization

/// Memory served to any number of destinations, each on threads of its own.
final class LibrarySource: LibrarySession {
    private struct Sessions {
        var running: [UInt32: SourceSession] = [:]
        /// Those whose thread has said its last and is not joined yet.
        var ended: [SourceSession] = []
        /// Figures of those that are over.
        var past = pageferry_statistics()
        var started: UInt32 = 0
        var isClosing = false
    }

    let events = Mailbox<LibraryEvent>()
    let address: String
    private let security: LibrarySecurity
    private let image: SourceImage
    private let server: SourceServer
    private let configuration: SourceSession.Configuration
    private let sessions = Mutex(Sessions())
    private let acceptor = Mutex<DedicatedThread?>(nil)

    /// SAFETY: what the options point to is the caller's, and lives for the call, as the header says; nothing keeps it.
    init(_ options: pageferry_source_options) throws(LibraryError) {
        security = try unsafe LibrarySecurity(options.security)
        let transport = try unsafe Options.transport(options.transport)
        let listen = try unsafe security.address(options.listen, transport)
        var configuration = SourceServer.Configuration()
        configuration.security = try security.lanes(.server)
        let mostSessions = unsafe options.most_sessions
        guard mostSessions <= 4096 else { throw .argument("most_sessions is \(mostSessions); at most 4096 are possible") }
        configuration.mostSessions = mostSessions == 0 ? 64 : Int(mostSessions)
        let adopted = try unsafe LibrarySockets(options.adopted_descriptors, options.adopted_count)
        if let adopted { try security.check(adopted.sockets) }
        configuration.mostLanes = max(configuration.mostLanes, adopted?.sockets.count ?? 0)
        guard listen != nil || adopted != nil else { throw .argument("listen is NULL, and no descriptors are given to be adopted") }
        let regions = try unsafe Options.regions(options)
        do throws(SessionError) {
            image = try SourceImage(regions)
            try image.findHoles()
        } catch { throw LibraryError(error) }
        configuration.toldImage = { [image] in image }
        let patience = unsafe options.give_up_after_seconds
        self.configuration = {
            var configuration = SourceSession.Configuration()
            configuration.pauseNanoseconds = UInt64(patience == 0 ? 600 : patience) * 1_000_000_000
            return configuration
        }()
        if let listen {
            let listener = try Self.listener(on: listen, transport)
            address = listener.address.description
            server = SourceServer(listener: listener, layout: image.layout, configuration: configuration)
            if let adopted { server.adopt(adopted.sockets) }
        } else {
            address = ""
            server = SourceServer(adopting: adopted!.sockets, layout: image.layout, configuration: configuration)
        }
        adopted?.takeOver()
        acceptor.withLock { acceptor in
            acceptor = DedicatedThread(name: "sessions") { [self] in accept() }
        }
    }

    private static func listener(on address: StreamAddress, _ transport: TransportChoice) throws(LibraryError) -> SourceListener {
        var stream: StreamListener?
        if transport != .rdma {
            do throws(StreamError) { stream = try StreamListener(on: address) } catch { throw LibraryError(error) }
        }
        do throws(SessionError) {
            return try SourceListener(stream, on: address, transport: transport)
        } catch { throw LibraryError(error) }
    }

    func adopt(_ sockets: LibrarySockets) throws(LibraryError) {
        try security.check(sockets.sockets)
        server.adopt(sockets.sockets)
        sockets.takeOver()
    }

    private func accept() {
        do throws(SessionError) {
            while let opened = try server.nextSession(refused: { [events] peer, error in
                events.post(LibraryEvent(kind: PAGEFERRY_EVENT_REFUSED, text: "\(peer): \(error)"))
            }) { begin(opened) }
        } catch {
            let failure = LibraryError(error)
            events.post(LibraryEvent(kind: PAGEFERRY_EVENT_ENDED, status: failure.status, text: failure.text))
        }
    }

    private func begin(_ opened: OpenedSource) {
        let number = sessions.withLock { sessions in
            sessions.started += 1
            return sessions.started
        }
        events.post(LibraryEvent(kind: PAGEFERRY_EVENT_BEGUN, session: number, text: opened.peer))
        // A session's last notice may come before it is in the table.
        sessions.withLock { sessions in
            let session = SourceSession(opened, memory: image, machineState: nil, configuration: configuration) { [weak self] notice in
                self?.take(notice, number)
            }
            sessions.running[number] = session
            session.guestStopped()
            if sessions.isClosing { session.end(.cancelled) }
        }
    }

    /// On the session's thread.
    private func take(_ notice: SourceNotice, _ number: UInt32) {
        switch notice {
        case .loaded, .resumed: break
        case .paused(let error): events.post(LibraryEvent(kind: PAGEFERRY_EVENT_PAUSED, session: number, text: error.description))
        case .restored: events.post(LibraryEvent(kind: PAGEFERRY_EVENT_RESTORED, session: number))
        case .allResident: events.post(LibraryEvent(kind: PAGEFERRY_EVENT_ALL_RESIDENT, session: number))
        case .ended(let reason):
            let over = sessions.withLock { sessions in
                let over = sessions.ended
                sessions.ended = []
                if let session = sessions.running.removeValue(forKey: number) {
                    sessions.past.add(session.statistics.read())
                    sessions.ended.append(session)
                }
                return over
            }
            // The threads of earlier ones have gone, or are about to; this one's own is joined by the next, or at the end.
            for session in over { session.join() }
            server.sessionEnded()
            let failure = reason.map { LibraryError($0) }
            events.post(
                LibraryEvent(
                    kind: PAGEFERRY_EVENT_ENDED, status: failure?.status ?? 0, session: number, text: failure?.text ?? ""))
        }
    }

    var statistics: pageferry_statistics {
        sessions.withLock { sessions in
            var all = sessions.past
            all.sessions = 0
            for session in sessions.running.values { all.add(session.statistics.read()) }
            return all
        }
    }

    func end() {
        server.stop()
        sessions.withLock { sessions in
            sessions.isClosing = true
            for session in sessions.running.values { session.end(.cancelled) }
        }
    }

    func close() {
        end()
        acceptor.withLock { $0.take() }?.join()
        while true {
            let (session, isOver) = sessions.withLock { sessions in
                (sessions.ended.popLast() ?? sessions.running.values.first, sessions.ended.isEmpty && sessions.running.isEmpty)
            }
            guard let session else {
                if isOver { return }
                continue
            }
            session.end(.cancelled)
            session.join()
        }
    }
}
