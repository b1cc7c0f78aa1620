import CShims
import Glibc
import PageCore

/// An event QEMU sent unasked.
public struct QMPEvent: Sendable {
    public let name: String
    public let data: JSONValue
    /// When it was read from the socket, on the monotonic clock.
    public let arrivedNanoseconds: UInt64
}

/// One QMP connection, for one thread at a time: commands are answered in turn, events are kept until somebody asks.
///
/// The other end is not trusted: the length of a message, its nesting and the number of events kept are bounded, and every
/// wait has a deadline. Source: QEMU's docs/interop/qmp-spec.rst.
public final class QMPClient {
    /// The longest message accepted: far beyond any answer used here.
    static let longestMessageBytes = 16 << 20
    /// Events kept; the oldest go first when nobody asks.
    static let mostEvents = 256

    private let socket: OwnedDescriptor
    private var received: [UInt8] = []
    /// Bytes of `received` known to hold no end of line.
    private var searched = 0
    /// When the newest bytes of `received` were read.
    private var receivedNanoseconds: UInt64 = 0
    private var events: [QMPEvent] = []
    private var lastIdentifier = 0
    /// A command whose answer nobody waits for, and its refusal once that has come.
    private var started: (identifier: Int, command: String)?
    private var refusal: QemuError?
    /// Set when the two sides no longer agree on where a message begins: nothing more can be said.
    private var isBroken = false
    /// The first line may be the end of one whose beginning another process has read.
    private var mayBeginWithin = false

    /// Connects to a QMP server's socket.
    public convenience init(connectingTo path: String, timeoutNanoseconds: UInt64 = 10_000_000_000) throws(QemuError) {
        let number = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard number >= 0 else { throw .systemCall("socket", code: errno) }
        let socket = OwnedDescriptor(adopting: number)
        // A server with a full backlog would hold connect(2) for good; for unix sockets it obeys this time-out.
        let microseconds = max(1, timeoutNanoseconds / 1_000)
        var limit = timeval(tv_sec: Int(microseconds / 1_000_000), tv_usec: Int(microseconds % 1_000_000))
        // SAFETY: the structure and the terminated path live for the calls.
        unsafe setsockopt(number, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        let answer = unsafe pageferry_unix_connect(number, path)
        guard answer == 0 else {
            if answer == -EAGAIN { throw .busy(path: path) }
            throw .cannotConnect(path: path, code: -answer)
        }
        try self.init(adopting: socket.release(), name: path, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Takes over a connected socket, and leaves QEMU's negotiation mode. The socket is closed with the client, and also
    /// when this throws.
    ///
    /// - Parameter name: for errors.
    public init(adopting socket: Int32, name: String, timeoutNanoseconds: UInt64 = 10_000_000_000) throws(QemuError) {
        self.socket = OwnedDescriptor(adopting: socket)
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        do throws(QemuError) {
            guard try receive(deadline, "")["QMP"] != nil else { throw .notQMP(path: name) }
        } catch .malformedMessage {
            throw .notQMP(path: name)
        } catch .timedOut {
            throw .busy(path: name)
        }
        try execute("qmp_capabilities", timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Goes on with a connection that another process has used and left, whatever it has left half read or unanswered. The
    /// socket is closed with the client.
    init(continuing socket: Int32) {
        self.socket = OwnedDescriptor(adopting: socket)
        // Beyond any number of the commands before, whose answers may still come.
        lastIdentifier = 1 << 30
        mayBeginWithin = true
    }

    /// Readable when an event or QEMU's end may have come; for poll(2) alone. Valid for the life of the client. What came
    /// along with an answer has been read already: `nextEvent` with a deadline of 0 gives that without waiting.
    public var descriptor: Int32 { socket.rawValue }

    /// The process at the other end: of a server, the one that listened.
    public var peerProcess: pid_t? {
        var process: Int32 = 0
        var user: UInt32 = 0
        var group: UInt32 = 0
        // SAFETY: three local integers, filled during the call.
        return unsafe pageferry_unix_peer(socket.rawValue, &process, &user, &group) == 0 ? process : nil
    }

    /// Runs one command and waits for its answer; events that come meanwhile are kept.
    ///
    /// - Parameter descriptor: sent along with the command, for `getfd`.
    @discardableResult
    public func execute(
        _ command: String, _ arguments: [String: JSONValue] = [:], descriptor: Int32? = nil,
        timeoutNanoseconds: UInt64 = 10_000_000_000
    ) throws(QemuError) -> JSONValue {
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        try send(command, arguments, descriptor, deadline)
        while true {
            let answer = try receive(deadline, "the answer to '\(command)'")
            if try keep(answer) { continue }
            // QEMU answers what it could not parse without an identifier.
            if let identifier = answer["id"], identifier.integer != lastIdentifier {
                settle(answer)
                continue
            }
            if let error = answer["error"] {
                throw .refused(command: command, text: (error["desc"]?.string ?? "no reason given").withoutControls)
            }
            if let value = answer["return"] { return value }
            throw .malformedMessage("neither an answer nor an event")
        }
    }

    /// Sends one command whose answer cannot be waited for; a refusal is thrown by the next `nextEvent`.
    public func start(
        _ command: String, _ arguments: [String: JSONValue] = [:], timeoutNanoseconds: UInt64 = 10_000_000_000
    ) throws(QemuError) {
        refusal = nil
        started = nil
        try send(command, arguments, nil, MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds)
        started = (lastIdentifier, command)
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
            if let refusal = refusal.take() { throw refusal }
            do throws(QemuError) {
                let message = try receive(deadlineNanoseconds, "an event")
                if try !keep(message) { settle(message) }
            } catch .timedOut {
                return nil
            }
        }
    }

    /// Drops every event kept so far.
    public func discardEvents() { events.removeAll() }

    // MARK: Messages

    /// - Returns: false when the message is no event.
    private func keep(_ message: JSONValue) throws(QemuError) -> Bool {
        guard let event = message["event"] else { return false }
        guard let name = event.string else { throw .malformedMessage("an event without a name") }
        if events.count == Self.mostEvents { events.removeFirst() }
        events.append(QMPEvent(name: name, data: message["data"] ?? .null, arrivedNanoseconds: receivedNanoseconds))
        return true
    }

    /// An answer that nobody waits for: to a command that was started, or to one that was given up.
    private func settle(_ answer: JSONValue) {
        guard let command = started, answer["id"]?.integer == command.identifier else { return }
        started = nil
        guard let error = answer["error"] else { return }
        refusal = .refused(command: command.command, text: (error["desc"]?.string ?? "no reason given").withoutControls)
    }

    private func send(
        _ command: String, _ arguments: [String: JSONValue], _ descriptor: Int32?, _ deadline: UInt64
    ) throws(QemuError) {
        guard !isBroken else { throw .connectionLost }
        // An answer that comes after its command was given up must not be taken for the next one's.
        lastIdentifier += 1
        var message: [String: JSONValue] = ["execute": .string(command), "id": .integer(lastIdentifier)]
        if !arguments.isEmpty { message["arguments"] = .object(arguments) }
        var rest = JSONValue.object(message).encoded + [UInt8(ascii: "\n")]
        var descriptors = descriptor.map { [$0] } ?? []
        // Cleared once the whole message is out.
        isBroken = true
        while !rest.isEmpty {
            // SAFETY: both arrays outlive the call.
            let sent = unsafe pageferry_handoff_send(
                socket.rawValue, rest, rest.count, descriptors, Int32(descriptors.count))
            if sent == -Int64(EAGAIN) {
                try wait(for: Int16(POLLOUT), deadline, "it to read a command")
                continue
            }
            guard sent > 0 else { throw .connectionLost }
            descriptors = []
            rest.removeFirst(Int(sent))
        }
        isBroken = false
    }

    private func receive(_ deadline: UInt64, _ what: String) throws(QemuError) -> JSONValue {
        guard !isBroken else { throw .connectionLost }
        while true {
            if let end = received[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                let line = received[..<end]
                received.removeFirst(end + 1)
                searched = 0
                guard line.contains(where: { $0 > 32 }) else { continue }
                do throws(QemuError) {
                    let message = try JSONValue(parsing: line)
                    guard case .object = message else { throw .malformedMessage("a line that is no JSON object") }
                    return message
                } catch {
                    if mayBeginWithin {
                        mayBeginWithin = false
                        continue
                    }
                    isBroken = true
                    throw error
                }
            }
            searched = received.count
            guard received.count < Self.longestMessageBytes else {
                isBroken = true
                throw .messageTooLong(bytes: Self.longestMessageBytes)
            }
            try wait(for: Int16(POLLIN), deadline, what)
            try readOnce()
        }
    }

    private func readOnce() throws(QemuError) {
        var piece = [UInt8](repeating: 0, count: 64 << 10)
        // SAFETY: the array outlives the call, which writes within its count.
        let count = unsafe recv(socket.rawValue, &piece, piece.count, Int32(MSG_DONTWAIT))
        if count < 0, errno == EAGAIN || errno == EINTR { return }
        guard count > 0 else { throw .connectionLost }
        receivedNanoseconds = MonotonicClock.nowNanoseconds()
        received.append(contentsOf: piece[..<count])
    }

    private func wait(for events: Int16, _ deadline: UInt64, _ what: String) throws(QemuError) {
        while true {
            let now = MonotonicClock.nowNanoseconds()
            guard now < deadline else { throw .timedOut(waitingFor: what) }
            var entry = pollfd(fd: socket.rawValue, events: events, revents: 0)
            let milliseconds = Int32(clamping: (deadline - now) / 1_000_000 + 1)
            // SAFETY: one local entry, for the duration of the call.
            if unsafe poll(&entry, 1, milliseconds) > 0 { return }
        }
    }
}
