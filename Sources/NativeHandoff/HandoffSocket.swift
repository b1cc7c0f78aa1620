import CShims
import Glibc
import PageCore

/// A connected unix socket that carries hand-off messages and descriptors. Every wait has a deadline.
package struct HandoffSocket: ~Copyable, Sendable {
    package let rawValue: Int32

    init(adopting descriptor: Int32) { rawValue = descriptor }

    deinit { close(rawValue) }

    static func make() throws(HandoffError) -> HandoffSocket {
        let flags = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_UNIX, flags, 0)
        guard descriptor >= 0 else { throw .systemCall(call: "socket(2)", code: errno) }
        return HandoffSocket(adopting: descriptor)
    }

    /// Sends one message; `descriptors` stay the caller's.
    borrowing func send(
        _ kind: HandoffMessageKind, _ payload: [UInt8], descriptors: [Int32] = [], deadline: HandoffDeadline
    ) throws(HandoffError) {
        precondition(payload.count <= HandoffProtocol.mostPayloadBytes, "a payload within the protocol's bound")
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(HandoffProtocol.magic)
        bytes.appendLittleEndian(kind.rawValue)
        bytes.appendLittleEndian(UInt16(descriptors.count))
        bytes.appendLittleEndian(UInt32(payload.count))
        bytes.appendLittleEndian(UInt32(0))
        bytes += payload
        var sent = 0
        while sent < bytes.count {
            // SAFETY: both arrays live for the call, and their counts bound what is read. Descriptors go once.
            let answer = unsafe bytes.withUnsafeBytes { buffer in
                unsafe pageferry_handoff_send(
                    rawValue, buffer.baseAddress! + sent, buffer.count - sent, descriptors,
                    sent == 0 ? Int32(descriptors.count) : 0)
            }
            switch answer {
            case 1...: sent += Int(answer)
            case Int64(-EAGAIN): try wait(for: POLLOUT, deadline, "sending")
            case Int64(-EPIPE), Int64(-ECONNRESET): throw .connectionEnded(step: "before it had read a message")
            default: throw .systemCall(call: "sendmsg(2)", code: Int32(truncatingIfNeeded: -answer))
            }
        }
    }

    /// Receives one message with its descriptors.
    /// - Returns: nil when the peer ended the connection between messages.
    borrowing func receive(
        deadline: HandoffDeadline, step: String
    ) throws(HandoffError) -> ReceivedMessage? {
        var descriptors = ReceivedDescriptors()
        let head = try receive(HandoffProtocol.headerBytes, &descriptors, deadline, step)
        if head.isEmpty { return nil }
        guard head.count == HandoffProtocol.headerBytes else { throw .connectionEnded(step: step) }
        let header = try HandoffHeader(head)
        let payload = try receive(header.payloadBytes, &descriptors, deadline, step)
        guard payload.count == header.payloadBytes else { throw .connectionEnded(step: step) }
        guard !descriptors.cutOff, descriptors.count == header.descriptorCount else {
            throw .malformed(
                detail:
                    "\(header.descriptorCount) descriptors announced, \(descriptors.count)\(descriptors.cutOff ? " or more" : "") received")
        }
        return ReceivedMessage(kind: header.kind, payload: payload, descriptors: descriptors)
    }

    /// Exactly `count` bytes, or fewer when the peer ended the connection.
    private borrowing func receive(
        _ count: Int, _ descriptors: inout ReceivedDescriptors, _ deadline: HandoffDeadline, _ step: String
    ) throws(HandoffError) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let more = try receiveSome(atMost: count - bytes.count, &descriptors, deadline, step)
            if more.isEmpty { break }
            bytes += more
        }
        return bytes
    }

    /// What has come, at most `count` bytes, and the descriptors that came along; waits for the first byte.
    ///
    /// - Returns: nothing when the peer ended the connection.
    package borrowing func receiveSome(
        atMost count: Int, _ descriptors: inout ReceivedDescriptors, _ deadline: HandoffDeadline, _ step: String
    ) throws(HandoffError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        while true {
            // SAFETY: the array lives for the call, and its count bounds what is written.
            let answer = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe pageferry_handoff_receive(rawValue, buffer.baseAddress, buffer.count)
            }
            descriptors.append(answer)
            switch answer.bytes {
            case 1...: return Array(bytes[..<Int(answer.bytes)])
            case 0, Int64(-ECONNRESET): return []
            case Int64(-EAGAIN): try wait(for: POLLIN, deadline, step)
            default: throw .systemCall(call: "recvmsg(2)", code: Int32(truncatingIfNeeded: -answer.bytes))
            }
        }
    }

    borrowing func wait(
        for events: Int32, _ deadline: HandoffDeadline, _ step: String
    ) throws(HandoffError) {
        var waiting = pollfd(fd: rawValue, events: Int16(events), revents: 0)
        while true {
            // SAFETY: one pollfd, this variable.
            let answer = unsafe poll(&waiting, 1, deadline.remainingMilliseconds)
            if answer > 0 { return }
            if answer == 0 { throw .timedOut(step: step) }
            if errno != EINTR { throw .systemCall(call: "poll(2)", code: errno) }
        }
    }
}

/// A moment of the monotonic clock.
package struct HandoffDeadline: Sendable {
    private let nanoseconds: UInt64

    package init(timeoutNanoseconds: UInt64) {
        let (sum, overflow) = Self.now().addingReportingOverflow(timeoutNanoseconds)
        nanoseconds = overflow ? .max : sum
    }

    /// At least 0, rounded up, as poll(2) takes it.
    var remainingMilliseconds: Int32 {
        let now = Self.now()
        guard nanoseconds > now else { return 0 }
        return Int32(min((nanoseconds - now) / 1_000_000 + 1, UInt64(Int32.max)))
    }

    private static func now() -> UInt64 {
        var time = timespec()
        // SAFETY: the kernel fills this variable.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}

/// One message and the descriptors that came with it.
struct ReceivedMessage: ~Copyable {
    let kind: HandoffMessageKind
    let payload: [UInt8]
    var descriptors: ReceivedDescriptors
}

/// Descriptors that came from a peer; those nobody took are closed.
package struct ReceivedDescriptors: ~Copyable {
    private var descriptors: [Int32] = []
    package private(set) var cutOff = false

    package init() {}

    deinit { for descriptor in descriptors where descriptor >= 0 { close(descriptor) } }

    /// The number received, taken or not.
    package var count: Int { descriptors.count }

    mutating func append(_ received: pageferry_handoff_received) {
        // SAFETY: a C array of integers, of which the shim filled the first `count`.
        unsafe withUnsafeBytes(of: received.descriptors) { bytes in
            for index in 0..<Int(received.count) {
                descriptors.append(unsafe bytes.load(fromByteOffset: index * MemoryLayout<Int32>.stride, as: Int32.self))
            }
        }
        if received.cut_off != 0 { cutOff = true }
    }

    /// Takes a descriptor over that came another way; nil is none.
    package mutating func append(_ descriptor: Int32?) {
        if let descriptor { descriptors.append(descriptor) }
    }

    /// The descriptor at `index`, now the caller's.
    package mutating func take(_ index: Int) -> Int32 {
        defer { descriptors[index] = -1 }
        return descriptors[index]
    }
}
