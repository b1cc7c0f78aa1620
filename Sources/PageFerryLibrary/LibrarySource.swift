import CPageFerry
import PageCore
import PageFerry
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
    private let image: SourceImage
    private let server: SourceServer
    private let configuration: SourceSession.Configuration
    private let sessions = Mutex(Sessions())
    private let acceptor = Mutex<DedicatedThread?>(nil)

    init(
        _ regions: [SourceRegionDescriptor], listen: StreamAddress, configuration: SourceServer.Configuration, pauseNanoseconds: UInt64
    ) throws(LibraryError) {
        do throws(SessionError) {
            image = try SourceImage(regions)
            try image.findHoles()
        } catch { throw LibraryError(error) }
        let stream: StreamListener
        do throws(StreamError) { stream = try StreamListener(on: listen) } catch { throw LibraryError(error) }
        let listener: SourceListener
        do throws(SessionError) {
            listener = try SourceListener(stream, on: listen, transport: .tcp)
        } catch { throw LibraryError(error) }
        address = listener.description
        server = SourceServer(listener: listener, layout: image.layout, configuration: configuration)
        self.configuration = {
            var configuration = SourceSession.Configuration()
            configuration.pauseNanoseconds = pauseNanoseconds
            return configuration
        }()
        acceptor.withLock { acceptor in
            acceptor = DedicatedThread(name: "sessions") { [self] in accept() }
        }
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
            events.post(LibraryEvent(
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
