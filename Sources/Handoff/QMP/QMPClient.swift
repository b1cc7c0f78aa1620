import CShims
import Foundation
import Glibc
import PageCore

/// An event QEMU sent unasked.
public struct QMPEvent: Sendable {
    public let name: String
    public let data: JSONValue
    /// When it was read here, on the monotonic clock.
    public let arrivedNanoseconds: UInt64
}

/// One QMP connection, for one thread: commands are answered in turn, events are kept until somebody asks for them.
///
/// Source: QEMU's docs/interop/qmp-spec.rst.
public final class QMPClient {
    /// The longest message accepted: far beyond any answer used here.
    static let longestMessageBytes = 16 << 20
    /// Events kept; the oldest go first when nobody asks.
    private static let mostEvents = 256

    private let socket: Int32
    private var received: [UInt8] = []
    /// Bytes of `received` known to hold no end of line.
    private var searched = 0
    private var events: [QMPEvent] = []

    /// Connects to a QMP server's socket.
    public convenience init(connectingTo path: String, timeoutNanoseconds: UInt64 = 10_000_000_000) throws(QemuError) {
        let socket = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard socket >= 0 else { throw .systemCall("socket", code: errno) }
        // SAFETY: the path is terminated and lives for the call.
        let answer = unsafe pageferry_unix_connect(socket, path)
        guard answer == 0 else {
            close(socket)
            throw .cannotConnect(path: path, code: -answer)
        }
        try self.init(adopting: socket, name: path, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Takes over a connected socket, and leaves QEMU's negotiation mode.
    ///
    /// - Parameter name: for errors.
    public init(adopting socket: Int32, name: String, timeoutNanoseconds: UInt64 = 10_000_000_000) throws(QemuError) {
        self.socket = socket
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        do throws(QemuError) {
            guard try receive(deadline, "QEMU's greeting")["QMP"] != nil else { throw .notQMP(path: name) }
        } catch .malformedMessage {
            throw .notQMP(path: name)
        }
        _ = try execute("qmp_capabilities", timeoutNanoseconds: timeoutNanoseconds)
    }

    deinit { close(socket) }

    /// The process at the other end.
    public var peerProcess: pid_t? {
        var process: Int32 = 0
        var user: UInt32 = 0
        var group: UInt32 = 0
        // SAFETY: three local integers, filled during the call.
        return unsafe pageferry_unix_peer(socket, &process, &user, &group) == 0 ? process : nil
    }

    /// Runs one command and waits for its answer; events that come meanwhile are kept.
    ///
    /// - Parameter descriptor: sent along with the command, for `getfd`.
    @discardableResult
    public func execute(
        _ command: String, _ arguments: [String: JSONValue] = [:], descriptor: Int32? = nil,
        timeoutNanoseconds: UInt64 = 10_000_000_000
    ) throws(QemuError) -> JSONValue {
        var message: [String: JSONValue] = ["execute": .string(command)]
        if !arguments.isEmpty { message["arguments"] = .object(arguments) }
        try send(.object(message), descriptor)
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        while true {
            let answer = try receive(deadline, "the answer to '\(command)'")
            if let value = answer["return"] { return value }
            if let error = answer["error"] {
                throw .refused(command: command, text: error["desc"]?.string ?? "no reason given")
            }
            keep(answer)
        }
    }

    /// The next event with one of the given names; others that came before it are dropped.
    ///
    /// - Returns: nil when the deadline (monotonic clock) has passed.
    public func nextEvent(named names: Set<String>, deadlineNanoseconds: UInt64) throws(QemuError) -> QMPEvent? {
        while true {
            while !events.isEmpty {
                let event = events.removeFirst()
                if names.contains(event.name) { return event }
            }
            do throws(QemuError) {
                keep(try receive(deadlineNanoseconds, "an event"))
            } catch .timedOut {
                return nil
            }
        }
    }

    // MARK: Messages

    private func keep(_ message: JSONValue) {
        guard let name = message["event"]?.string else { return }
        if events.count == Self.mostEvents { events.removeFirst() }
        events.append(QMPEvent(
            name: name, data: message["data"] ?? .null, arrivedNanoseconds: MonotonicClock.nowNanoseconds()))
    }

    private func send(_ message: JSONValue, _ descriptor: Int32?) throws(QemuError) {
        guard let data = try? JSONEncoder().encode(message) else { throw .malformedMessage }
        var rest = [UInt8](data) + [UInt8(ascii: "\n")]
        var descriptors = descriptor.map { [$0] } ?? []
        let deadline = MonotonicClock.nowNanoseconds() &+ 10_000_000_000
        while !rest.isEmpty {
            // SAFETY: both arrays outlive the call.
            let sent = unsafe pageferry_handoff_send(socket, rest, rest.count, descriptors, Int32(descriptors.count))
            if sent == -Int64(EAGAIN) {
                try wait(for: Int16(POLLOUT), deadline, "QEMU to read a command")
                continue
            }
            guard sent > 0 else { throw .connectionLost }
            descriptors = []
            rest.removeFirst(Int(sent))
        }
    }

    private func receive(_ deadline: UInt64, _ what: String) throws(QemuError) -> JSONValue {
        while true {
            if let end = received[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                let line = Data(received[..<end])
                received.removeFirst(end + 1)
                searched = 0
                guard line.contains(where: { $0 > 32 }) else { continue }
                guard let value = try? JSONDecoder().decode(JSONValue.self, from: line) else { throw .malformedMessage }
                return value
            }
            searched = received.count
            guard received.count < Self.longestMessageBytes else { throw .messageTooLong(bytes: Self.longestMessageBytes) }
            try wait(for: Int16(POLLIN), deadline, what)
            var piece = [UInt8](repeating: 0, count: 64 << 10)
            // SAFETY: the array outlives the call, which writes within its count.
            let count = unsafe recv(socket, &piece, piece.count, Int32(MSG_DONTWAIT))
            if count < 0, errno == EAGAIN || errno == EINTR { continue }
            guard count > 0 else { throw .connectionLost }
            received.append(contentsOf: piece[..<count])
        }
    }

    private func wait(for events: Int16, _ deadline: UInt64, _ what: String) throws(QemuError) {
        while true {
            let now = MonotonicClock.nowNanoseconds()
            guard now < deadline else { throw .timedOut(waitingFor: what) }
            var entry = pollfd(fd: socket, events: events, revents: 0)
            let milliseconds = Int32(clamping: (deadline - now) / 1_000_000 + 1)
            // SAFETY: one local entry, for the duration of the call.
            if unsafe poll(&entry, 1, milliseconds) > 0 { return }
        }
    }
}
