import CShims
import Foundation
import Glibc
import Synchronization

@testable import Handoff

/// The other end of a QMP connection, run by a test's script on a thread of its own. Closed when the script ends.
final class QMPFakeServer: Sendable {
    let clientEnd: Int32
    private let script: Runner<Bool>

    static let greeting = #"{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}"#

    init(_ script: @escaping @Sendable (Peer) -> Void) {
        var ends: [Int32] = [-1, -1]
        precondition(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0)
        clientEnd = ends[0]
        let peer = Peer(socket: ends[1])
        self.script = Runner {
            script(peer)
            close(peer.socket)
            return true
        }
    }

    /// Greets, accepts qmp_capabilities, and then runs `script`.
    static func greeting(_ script: @escaping @Sendable (Peer) -> Void) -> QMPFakeServer {
        QMPFakeServer { peer in
            peer.write(greeting)
            peer.answer(peer.read())
            script(peer)
        }
    }

    /// Greets and answers every command with what `answers` gives: a value for "return", and lines that come before it.
    static func answering(_ answers: @escaping @Sendable (_ command: String) -> (before: [String], value: String)) -> QMPFakeServer {
        greeting { peer in
            while let command = peer.read() {
                let (before, value) = answers(command["execute"]?.string ?? "")
                for line in before { peer.write(line) }
                peer.answer(command, value)
            }
        }
    }

    func join() { _ = script.join() }

    final class Peer: Sendable {
        let socket: Int32
        private let unread = Mutex<[UInt8]>([])
        private let passed = Mutex<[Int32]>([])

        init(socket: Int32) { self.socket = socket }

        // What nobody asked for.
        deinit {
            for descriptor in passed.withLock({ $0 }) { close(descriptor) }
        }

        func write(_ line: String) { write(Array(line.utf8) + [10]) }

        func write(_ bytes: [UInt8]) {
            var sent = 0
            while sent < bytes.count {
                let count = bytes.withUnsafeBytes { send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL)) }
                guard count > 0 else { return }
                sent += count
            }
        }

        /// The next command; nil when the client has gone.
        func read() -> JSONValue? {
            while true {
                let line: [UInt8]? = unread.withLock { unread in
                    guard let end = unread.firstIndex(of: 10) else { return nil }
                    let line = Array(unread[..<end])
                    unread.removeFirst(end + 1)
                    return line
                }
                if let line { return try? JSONDecoder().decode(JSONValue.self, from: Data(line)) }
                var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
                guard poll(&entry, 1, 20_000) > 0 else { return nil }
                var piece = [UInt8](repeating: 0, count: 65536)
                let received = pageferry_handoff_receive(socket, &piece, piece.count)
                guard received.bytes > 0 else { return nil }
                if received.count > 0 { passed.withLock { $0.append(received.descriptors.0) } }
                unread.withLock { $0.append(contentsOf: piece[..<Int(received.bytes)]) }
            }
        }

        func answer(_ command: JSONValue?, _ value: String = "{}") {
            write(#"{"return": \#(value), "id": \#(command?["id"]?.integer ?? -1)}"#)
        }

        /// A descriptor that came with a command.
        var descriptor: Int32? { passed.withLock { $0.popLast() } }
    }
}

/// Counts across threads.
final class Counter: Sendable {
    private let value = Mutex(0)
    var count: Int { value.withLock { $0 } }
    func next() -> Int {
        value.withLock { value in
            value += 1
            return value
        }
    }
}
