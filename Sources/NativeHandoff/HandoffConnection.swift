import CShims
import Glibc
import HostMemory
import PageCore
import Synchronization
import Userfault

/// Who is at the other end of a unix socket, as the kernel says (SO_PEERCRED).
public struct HandoffPeer: Sendable, Hashable {
    public let processIdentifier: Int32
    public let userIdentifier: UInt32
    public let groupIdentifier: UInt32

    package init(of socket: borrowing HandoffSocket) throws(HandoffError) {
        var process: Int32 = 0
        var user: UInt32 = 0
        var group: UInt32 = 0
        // SAFETY: the shim writes three integers, these variables.
        let answer = unsafe pageferry_unix_peer(socket.rawValue, &process, &user, &group)
        guard answer == 0 else { throw .systemCall(call: "SO_PEERCRED", code: -answer) }
        processIdentifier = process
        userIdentifier = user
        groupIdentifier = group
    }
}

/// The connection of one VMM. It is kept open as long as the memory is served: its end says that the VMM has gone.
public struct HandoffConnection: ~Copyable, Sendable {
    public let peer: HandoffPeer
    let socket: HandoffSocket
    private let spoken: Atomic<UInt32>

    /// - Parameter version: what the VMM speaks; its hello says it anew.
    init(_ socket: consuming HandoffSocket, version: UInt32 = HandoffProtocol.oldestVersion) throws(HandoffError) {
        peer = try HandoffPeer(of: socket)
        self.socket = socket
        spoken = Atomic(version)
    }

    /// The version of the protocol that the VMM speaks, from its hello on.
    public var version: UInt32 { spoken.load(ordering: .relaxed) }

    /// The connected descriptor, borrowed: to be polled for the VMM's end.
    public var rawValue: Int32 { socket.rawValue }

    /// Receives and checks every region up to `ready`, which waits for `acknowledge` or `refuse`.
    ///
    /// What is wrong is told to the VMM and thrown; whatever it sent is closed then. `timeoutNanoseconds` is for all.
    ///
    /// - Parameters:
    ///   - again: whether memory is awaited that a daemon before this one has served. A VMM that comes for the other reason is sent
    ///     away with `.wrongOccasion`: its memory is none of this session's.
    ///   - takesRequests: whether the caller serves what a VMM may ask for later (`nextRequest`); else version 1 is spoken.
    public borrowing func receiveRegions(
        again: Bool = false, takesRequests: Bool = true, timeoutNanoseconds: UInt64
    ) throws(HandoffError) -> HandedOverRegions {
        let deadline = HandoffDeadline(timeoutNanoseconds: timeoutNanoseconds)
        do throws(HandoffError) {
            try receiveHello(again: again, newest: takesRequests ? HandoffProtocol.version : HandoffProtocol.oldestVersion, deadline)
            var regions = HandedOverRegions()
            while try receiveRegion(into: &regions, again: again, deadline) {
                try answer(HandoffAnswer(status: 0, text: ""), deadline)
            }
            return regions
        } catch {
            // The first error counts; that the peer cannot be told is no news then.
            try? answer(
                HandoffAnswer(status: error.status, text: error.description), HandoffDeadline(timeoutNanoseconds: 1_000_000_000))
            throw error
        }
    }

    /// Tells the VMM that its memory is served from now on. Its thread waits for this: be quick.
    public borrowing func acknowledge(timeoutNanoseconds: UInt64 = 5_000_000_000) throws(HandoffError) {
        try answer(HandoffAnswer(status: 0, text: ""), HandoffDeadline(timeoutNanoseconds: timeoutNanoseconds))
    }

    /// Tells the VMM that its memory is not served, with one line that says why.
    public borrowing func refuse(_ text: String) throws(HandoffError) {
        let status = HandoffError.refused(status: 0, text: text).status
        try answer(HandoffAnswer(status: status, text: text), HandoffDeadline(timeoutNanoseconds: 5_000_000_000))
    }

    /// Whether the VMM ended within `timeoutMilliseconds`: the connection is closed, or carries something. Where requests are served
    /// `nextRequest` tells the two apart.
    public borrowing func waitForEnd(timeoutMilliseconds: Int32) throws(HandoffError) -> Bool {
        do throws(HandoffError) {
            try socket.wait(
                for: POLLIN, HandoffDeadline(timeoutNanoseconds: UInt64(max(timeoutMilliseconds, 0)) * 1_000_000), "")
            return true
        } catch .timedOut {
            return false
        }
    }

    private borrowing func receiveHello(again: Bool, newest: UInt32, _ deadline: HandoffDeadline) throws(HandoffError) {
        guard let message = try socket.receive(deadline: deadline, step: "waiting for the VMM's hello") else {
            throw .connectionEnded(step: "before its hello")
        }
        guard message.kind == .hello, message.descriptors.count == 0 else {
            throw .malformed(detail: "the first message is not a hello")
        }
        var reader = HandoffReader(message.payload)
        let version = try reader.integer(UInt32.self)
        guard (HandoffProtocol.oldestVersion...newest).contains(version) else {
            throw .otherVersion(spoken: version, newest: newest)
        }
        spoken.store(version, ordering: .relaxed)
        let flags = try reader.integer(UInt32.self)
        try reader.expectEnd()
        guard (flags & HandoffProtocol.againFlag != 0) == again else { throw .wrongOccasion(isAgain: !again) }
        try answer(HandoffAnswer(status: 0, text: ""), deadline)
    }

    /// - Returns: false at `ready`.
    private borrowing func receiveRegion(
        into regions: inout HandedOverRegions, again: Bool, _ deadline: HandoffDeadline
    ) throws(HandoffError) -> Bool {
        guard var message = try socket.receive(deadline: deadline, step: "waiting for the VMM's regions") else {
            throw .connectionEnded(step: "before all its regions were in")
        }
        switch message.kind {
        case .region:
            let announced = try HandoffRegionMessage(message.payload)
            let region = try HandoffValidation.region(
                announced, &message.descriptors, after: regions, mayBeRemoved: again && version >= HandoffProtocol.versionWithRequests)
            regions.append(region)
            return true
        case .ready:
            var reader = HandoffReader(message.payload)
            let count = Int(try reader.integer(UInt32.self))
            _ = try reader.integer(UInt32.self)
            try reader.expectEnd()
            guard message.descriptors.count == 0 else { throw .malformed(detail: "a ready message carries descriptors") }
            guard count == regions.count, count > 0 else { throw .wrongCount(announced: count, received: regions.count) }
            return false
        case .hello, .answer, .remove, .finished, .add:
            throw .malformed(detail: "a message that does not belong here")
        }
    }

    borrowing func answer(_ answer: HandoffAnswer, _ deadline: HandoffDeadline) throws(HandoffError) {
        try socket.send(.answer, answer.encoded, deadline: deadline)
    }
}
