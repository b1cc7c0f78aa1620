import Foundation
import Glibc
import PageFerry
import StreamTransport
import Synchronization

/// What an operator may ask a running daemon, over a unix socket that only its user can reach: one line of JSON each way.
struct ControlRequest: Codable {
    /// `status`, or `recover`.
    var request: String
    /// Of `recover`: where the source is to be found, or where to listen from now on.
    var address: String?
}

/// What it answers.
struct ControlAnswer: Codable {
    var error: String?
    var status: [SessionStatus]?
}

/// One session as `pageferry status` shows it.
struct SessionStatus: Codable {
    var side: String
    var peer: String
    var phase: String
    var totalPages: Int
    var missingPages: Int
    var waitingFaults: Int
    var faults: Int
    /// How often the link was lost.
    var pauses: Int
    /// For how long the session has been without a link.
    var pausedSeconds: Double?
    /// Why it is paused.
    var obstacle: String?

    init(side: String, peer: String, _ statistics: SessionStatistics, nowNanoseconds now: UInt64) {
        self.side = side
        self.peer = peer
        phase = statistics.phase.rawValue
        totalPages = statistics.totalPages
        missingPages = statistics.missingPages
        waitingFaults = statistics.waitingFaults
        faults = statistics.faults
        pauses = statistics.pauseCount
        pausedSeconds = statistics.pausedNanoseconds.map { now > $0 ? Double(now - $0) / 1e9 : 0 }
        obstacle = statistics.obstacle?.description
    }
}

/// Answers operators on a thread of its own.
final class ControlSocket: Sendable {
    /// The longest request: an address, and some JSON.
    private static let mostBytes = 4096
    private static let mostAnswerBytes = 1 << 20
    private static let timeoutSeconds = 10
    /// For a request to come: less, since others wait behind it.
    private static let requestSeconds = 1

    private let path: String
    private let listener: Int32
    private let answer: @Sendable (ControlRequest) -> ControlAnswer
    private let thread = Mutex<DedicatedThread?>(nil)
    /// Whether the daemon ends, and whom it is talking to: that is cut short then.
    private let standing = Mutex<(isOver: Bool, connection: Int32?)>((false, nil))

    /// - Parameters:
    ///   - path: a socket left there by a daemon that died is replaced.
    ///   - answer: called on the socket's thread.
    init(path: String, answer: @escaping @Sendable (ControlRequest) -> ControlAnswer) throws(CommandFailure) {
        self.path = path
        self.answer = answer
        listener = UnixStream.listen(path)
        guard listener >= 0 else {
            throw CommandFailure(
                "cannot listen on the control socket '\(path)': error \(errno); give --control a path of this daemon's own", .cannotCreate)
        }
        thread.withLock { $0 = DedicatedThread(name: "control") { [self] in serve() } }
    }

    /// Ends it, and removes the socket.
    func stop() {
        standing.withLock { standing in
            standing.isOver = true
            if let connection = standing.connection { shutdown(connection, Int32(SHUT_RDWR)) }
        }
        shutdown(listener, Int32(SHUT_RDWR))
        thread.withLock { $0.take() }?.join()
        close(listener)
        // SAFETY: the path is terminated and lives for the call.
        unsafe unlink(path)
    }

    private func serve() {
        while true {
            let connection = accept(listener, nil, nil)
            if connection < 0, errno == EINTR || errno == ECONNABORTED { continue }
            guard connection >= 0 else { return }
            guard StreamConnection.credentials(connection)?.isTrusted == true else {
                close(connection)
                continue
            }
            let isOver = standing.withLock { standing in
                standing.connection = connection
                return standing.isOver
            }
            if !isOver { converse(connection) }
            standing.withLock { $0.connection = nil }
            close(connection)
        }
    }

    /// One operator at a time; one that says nothing, or drips, is let go soon.
    private func converse(_ connection: Int32) {
        UnixStream.limit(connection, seconds: Self.requestSeconds)
        guard let line = UnixStream.readLine(connection, mostBytes: Self.mostBytes, seconds: Self.requestSeconds) else { return }
        let reply: ControlAnswer
        if let request = try? JSONDecoder().decode(ControlRequest.self, from: line) {
            reply = answer(request)
        } else {
            reply = ControlAnswer(error: "not a request of this version")
        }
        if let data = try? JSONEncoder().encode(reply) { UnixStream.write(connection, data + Data("\n".utf8)) }
    }

    /// Asks the daemon at `path`.
    static func ask(_ request: ControlRequest, at path: String) throws(CommandFailure) -> ControlAnswer {
        let connection = UnixStream.connect(path)
        guard connection >= 0 else {
            throw CommandFailure("no daemon answers at '\(path)'; give the path of its --control", .unavailable)
        }
        defer { close(connection) }
        UnixStream.limit(connection, seconds: timeoutSeconds)
        guard let data = try? JSONEncoder().encode(request), UnixStream.write(connection, data + Data("\n".utf8)),
            let line = UnixStream.readLine(connection, mostBytes: mostAnswerBytes, seconds: timeoutSeconds),
            let answer = try? JSONDecoder().decode(ControlAnswer.self, from: line)
        else { throw CommandFailure("what listens at '\(path)' is no pageferry daemon of this version", .protocolError) }
        if let error = answer.error { throw CommandFailure(error, .unavailable) }
        return answer
    }
}
