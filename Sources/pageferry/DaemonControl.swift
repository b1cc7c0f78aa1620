import PageCore
import PageFerry
import StreamTransport
import Synchronization

/// A daemon's sessions as its control socket knows them.
final class DaemonControl: Sendable {
    private struct Session: Sendable {
        var number: Int
        var side: String
        var peer: String
        var statistics: SharedStatistics
        /// Points the session at another address; nil for a source.
        var recover: (@Sendable (StreamAddress) -> Void)?
    }

    private struct State {
        var sessions: [Session] = []
        var started = 0
        /// Listens at one more address; nil for a destination.
        var listen: (@Sendable (StreamAddress) throws(CommandFailure) -> Void)?
        var socket: ControlSocket?
    }

    private let state = Mutex(State())
    /// Refuses addresses that the daemon's own command line would not have taken.
    private let check: @Sendable (StreamAddress) throws(CommandFailure) -> Void

    /// - Parameters:
    ///   - path: of the socket; nil for none, and then nothing is answered.
    ///   - check: refuses addresses that the daemon's own command line would not have taken.
    init(path: String?, check: @escaping @Sendable (StreamAddress) throws(CommandFailure) -> Void) throws(CommandFailure) {
        self.check = check
        guard let path else { return }
        let socket = try ControlSocket(path: path) { [weak self] request in
            self?.answer(request) ?? ControlAnswer(error: "the daemon is ending")
        }
        state.withLock { $0.socket = socket }
    }

    deinit { state.withLock { $0.socket }?.stop() }

    func addDestination(_ session: DestinationSession, peer: String) -> Int {
        add(
            Session(number: 0, side: "destination", peer: peer, statistics: session.statistics) { [weak session] in session?.recover(at: $0)
            })
    }

    func addSource(_ session: SourceSession, peer: String) -> Int {
        add(Session(number: 0, side: "source", peer: peer, statistics: session.statistics, recover: nil))
    }

    private func add(_ session: Session) -> Int {
        state.withLock { state in
            state.started += 1
            var session = session
            session.number = state.started
            state.sessions.append(session)
            return state.started
        }
    }

    func remove(_ number: Int) { state.withLock { $0.sessions.removeAll { $0.number == number } } }

    /// Lets operators have this source listen at further addresses.
    func listens(with server: SourceServer) {
        state.withLock { state in
            state.listen = { [weak server] (address) throws(CommandFailure) in
                do throws(StreamError) {
                    server?.listen(try StreamListener(on: address))
                } catch {
                    throw CommandFailure(error.description, .cannotCreate)
                }
                Console.info("listening on \(address) too")
            }
        }
    }

    private func answer(_ request: ControlRequest) -> ControlAnswer {
        let (sessions, listen) = state.withLock { ($0.sessions, $0.listen) }
        do throws(CommandFailure) {
            switch request.request {
            case "status":
                let now = MonotonicClock.nowNanoseconds()
                return ControlAnswer(
                    status: sessions.map { SessionStatus(side: $0.side, peer: $0.peer, $0.statistics.read(), nowNanoseconds: now) })
            case "recover":
                let ways = sessions.compactMap(\.recover)
                guard !ways.isEmpty else { throw CommandFailure("this daemon has no destination session to point elsewhere", .unavailable) }
                let address = try address(of: request)
                for way in ways { way(address) }
            case "listen":
                guard let listen else { throw CommandFailure("this daemon is no source that listens", .unavailable) }
                try listen(try address(of: request))
            default:
                throw CommandFailure("'\(request.request)' is not a request of this version", .protocolError)
            }
            return ControlAnswer()
        } catch {
            return ControlAnswer(error: error.text)
        }
    }

    private func address(of request: ControlRequest) throws(CommandFailure) -> StreamAddress {
        let address = try attempt { () throws(StreamError) in try StreamAddress(parsing: request.address ?? "") }
        try check(address)
        return address
    }
}
