import CShims
import Glibc
import HostMemory
import PageCore
import Userfault

/// The other end of the hand-off: a process that gives its own memory to the daemon. What the preload shim does for an
/// unmodified VMM; for VMMs that link this library, and for tests.
///
/// Keep it as long as the memory is to be served, and keep the userfaultfds it returns for good: were the daemon's the
/// last, the kernel would unregister the memory when the daemon dies, and missing pages would read as zeros.
public struct HandoffClient: ~Copyable, Sendable {
    private var socket: HandoffSocket
    /// What both speak; older than this side's where the daemon is.
    public private(set) var version: UInt32
    private let path: String
    private let timeoutNanoseconds: UInt64
    /// What was handed over, to be handed over again to a daemon that takes over.
    private var messages: [HandoffRegionMessage] = []
    private var descriptors: [[Int32]] = []
    /// The number of regions handed over.
    public var regionCount: Int { messages.count }

    /// Connects to the daemon at `path` and makes the hello. Each answer is awaited for `timeoutNanoseconds`.
    public init(path: String, timeoutNanoseconds: UInt64 = 10_000_000_000) throws(HandoffError) {
        var version: UInt32 = 0
        socket = try Self.connect(path, again: false, timeoutNanoseconds, spoken: &version)
        self.version = version
        self.path = path
        self.timeoutNanoseconds = timeoutNanoseconds
    }

    deinit {
        for descriptor in descriptors.joined() { close(descriptor) }
    }

    /// In the newest version that the daemon speaks too.
    private static func connect(
        _ path: String, again: Bool, _ timeoutNanoseconds: UInt64, spoken version: inout UInt32
    ) throws(HandoffError) -> HandoffSocket {
        version = HandoffProtocol.version
        while true {
            do throws(HandoffError) {
                return try connect(path, again: again, version, timeoutNanoseconds)
            } catch .refused(1, let text) {
                guard version > HandoffProtocol.oldestVersion else { throw .refused(status: 1, text: text) }
                version -= 1
            }
        }
    }

    private static func connect(
        _ path: String, again: Bool, _ version: UInt32, _ timeoutNanoseconds: UInt64
    ) throws(HandoffError) -> HandoffSocket {
        let socket = try HandoffSocket.make()
        // SAFETY: the path is terminated and lives for the call.
        let answer = unsafe pageferry_unix_connect(socket.rawValue, path)
        guard answer == 0 else {
            let absent = answer == -ENOENT || answer == -ECONNREFUSED
            throw absent ? .nobodyListens(path: path) : .systemCall(call: "connecting to '\(path)'", code: -answer)
        }
        var hello: [UInt8] = []
        hello.appendLittleEndian(version)
        hello.appendLittleEndian(again ? HandoffProtocol.againFlag : 0)
        try Self.ask(socket, .hello, hello, [], timeoutNanoseconds)
        return socket
    }

    /// Whether the daemon ended within `timeoutMilliseconds`: it is to be waited for with `reattach`.
    public borrowing func waitForEnd(timeoutMilliseconds: Int32) throws(HandoffError) -> Bool {
        do throws(HandoffError) {
            try socket.wait(for: POLLIN, HandoffDeadline(timeoutNanoseconds: UInt64(max(timeoutMilliseconds, 0)) * 1_000_000), "")
            return true
        } catch .timedOut {
            return false
        }
    }

    /// Hands everything over once more, to the daemon that takes over at the same path. The threads that wait go on waiting
    /// until it serves them.
    ///
    /// - Throws: `.nobodyListens` while it has not been started; call again then.
    public mutating func reattach() throws(HandoffError) {
        var version: UInt32 = 0
        let fresh = try Self.connect(path, again: true, timeoutNanoseconds, spoken: &version)
        for (message, descriptors) in zip(messages, descriptors) {
            try Self.ask(fresh, .region, message.encoded, descriptors, timeoutNanoseconds)
        }
        try Self.ready(fresh, messages.count, timeoutNanoseconds)
        socket = fresh
        self.version = version
    }

    /// Takes a region out, whose memory nobody uses any more. Afterwards the daemon holds nothing of it, and it may be freed.
    ///
    /// - Parameter number: in the order in which the regions were handed over, from 0 on.
    public mutating func remove(_ number: Int) throws(HandoffError) {
        precondition(messages.indices.contains(number), "a region that was handed over")
        guard version >= HandoffProtocol.versionWithRequests else {
            throw .notThisProtocol(detail: "this daemon speaks version \(version), which cannot take a region out")
        }
        var payload: [UInt8] = []
        payload.appendLittleEndian(UInt32(number))
        payload.appendLittleEndian(UInt32(0))
        try Self.ask(socket, .remove, payload, [], timeoutNanoseconds)
        messages[number] = messages[number].removed
        for descriptor in descriptors[number] { close(descriptor) }
        descriptors[number] = []
    }

    /// Registers a mapping of `file` for missing and minor faults and hands it over. Nothing of it may be in use yet.
    /// - Returns: the userfaultfd, to be kept.
    public mutating func handOver(
        name: String, memory: borrowing MappedMemory, file: borrowing MemoryFile, fileOffset: Int = 0
    ) throws(HandoffError) -> UserfaultDescriptor {
        let modes: UserfaultModes = [.missing, .minor]
        let userfault = try Self.register(
            name, memory, modes, required: memory.pageSize == .twoMiB ? .hugetlbfs : .sharedMemory)
        let message = HandoffRegionMessage(
            name: name, address: UInt64(memory.address), lengthBytes: UInt64(memory.lengthBytes),
            fileOffset: UInt64(fileOffset), pageSizeBytes: UInt32(memory.pageSize.bytes),
            kind: HandoffMemoryKind.shared.rawValue, modes: UInt16(modes.rawValue), userfaultOf: HandoffProtocol.ownUserfault)
        try handOver(message, [userfault.rawValue, file.rawValue])
        return userfault
    }

    /// Registers anonymous memory for missing faults and hands it over. Nothing of it may be in use yet.
    /// - Returns: the userfaultfd, to be kept.
    public mutating func handOver(
        name: String, anonymous memory: borrowing MappedMemory
    ) throws(HandoffError) -> UserfaultDescriptor {
        let userfault = try Self.register(name, memory, .missing, required: [])
        let message = HandoffRegionMessage(
            name: name, address: UInt64(memory.address), lengthBytes: UInt64(memory.lengthBytes), fileOffset: 0,
            pageSizeBytes: UInt32(memory.pageSize.bytes), kind: HandoffMemoryKind.anonymous.rawValue,
            modes: UInt16(UserfaultModes.missing.rawValue), userfaultOf: HandoffProtocol.ownUserfault)
        try handOver(message, [userfault.rawValue])
        return userfault
    }

    /// Says that all regions are in, and waits until the daemon serves them.
    public borrowing func ready() throws(HandoffError) {
        try Self.ready(socket, regionCount, timeoutNanoseconds)
    }

    private static func ready(
        _ socket: borrowing HandoffSocket, _ regionCount: Int, _ timeoutNanoseconds: UInt64
    ) throws(HandoffError) {
        var payload: [UInt8] = []
        payload.appendLittleEndian(UInt32(regionCount))
        payload.appendLittleEndian(UInt32(0))
        try ask(socket, .ready, payload, [], timeoutNanoseconds)
    }

    mutating func handOver(_ message: HandoffRegionMessage, _ descriptors: [Int32]) throws(HandoffError) {
        try Self.ask(socket, .region, message.encoded, descriptors, timeoutNanoseconds)
        messages.append(message)
        // The descriptors are the caller's; these are for `reattach`.
        self.descriptors.append(descriptors.map { fcntl($0, F_DUPFD_CLOEXEC, 3) })
    }

    private static func register(
        _ name: String, _ memory: borrowing MappedMemory, _ modes: UserfaultModes, required: UserfaultFeatures
    ) throws(HandoffError) -> UserfaultDescriptor {
        do throws(UserfaultError) {
            let userfault = try UserfaultDescriptor(required: required, optional: [.removeEvents])
            try userfault.register(address: memory.address, lengthBytes: memory.lengthBytes, modes: modes)
            return userfault
        } catch {
            throw .badUserfault(name: name, detail: error.description)
        }
    }

    /// Sends one message and waits for its answer.
    private static func ask(
        _ socket: borrowing HandoffSocket, _ kind: HandoffMessageKind, _ payload: [UInt8], _ descriptors: [Int32],
        _ timeoutNanoseconds: UInt64
    ) throws(HandoffError) {
        let deadline = HandoffDeadline(timeoutNanoseconds: timeoutNanoseconds)
        try socket.send(kind, payload, descriptors: descriptors, deadline: deadline)
        guard let message = try socket.receive(deadline: deadline, step: "waiting for the page daemon's answer") else {
            throw .connectionEnded(step: "before it had answered")
        }
        guard message.kind == .answer, message.descriptors.count == 0 else {
            throw .malformed(detail: "the page daemon's message is not an answer")
        }
        let answer = try HandoffAnswer(message.payload)
        guard answer.status == 0 else { throw .refused(status: answer.status, text: answer.text) }
    }
}
