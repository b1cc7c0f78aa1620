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
    private let socket: HandoffSocket
    private let timeoutNanoseconds: UInt64
    /// The number of regions handed over.
    public private(set) var regionCount = 0

    /// Connects to the daemon at `path` and makes the hello. Each answer is awaited for `timeoutNanoseconds`.
    public init(path: String, timeoutNanoseconds: UInt64 = 10_000_000_000) throws(HandoffError) {
        let socket = try HandoffSocket.make()
        // SAFETY: the path is terminated and lives for the call.
        let answer = unsafe pageferry_unix_connect(socket.rawValue, path)
        guard answer == 0 else {
            let absent = answer == -ENOENT || answer == -ECONNREFUSED
            throw absent ? .nobodyListens(path: path) : .systemCall(call: "connecting to '\(path)'", code: -answer)
        }
        var hello: [UInt8] = []
        hello.appendLittleEndian(HandoffProtocol.version)
        hello.appendLittleEndian(UInt32(0))
        try Self.ask(socket, .hello, hello, [], timeoutNanoseconds)
        self.socket = socket
        self.timeoutNanoseconds = timeoutNanoseconds
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
        var payload: [UInt8] = []
        payload.appendLittleEndian(UInt32(regionCount))
        payload.appendLittleEndian(UInt32(0))
        try Self.ask(socket, .ready, payload, [], timeoutNanoseconds)
    }

    mutating func handOver(_ message: HandoffRegionMessage, _ descriptors: [Int32]) throws(HandoffError) {
        try Self.ask(socket, .region, message.encoded, descriptors, timeoutNanoseconds)
        regionCount += 1
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
