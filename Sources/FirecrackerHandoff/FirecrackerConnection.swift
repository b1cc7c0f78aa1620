import CShims
import Glibc
import NativeHandoff
import PageCore

/// A Firecracker that resumes from a snapshot (docs/snapshotting/handling-page-faults-on-snapshot-resume.md of its repository): it
/// connects, sends one message with its userfaultfd, and never speaks or listens again. Whether it closes the connection says nothing;
/// that it has ended is told by the kernel alone.
public struct FirecrackerConnection: ~Copyable, Sendable {
    /// The descriptors of one message: the userfaultfd, and what some builds send beside it.
    static let mostDescriptors = 3
    private static let pieceBytes = 16 << 10

    /// Nil for one that a daemon before this one has accepted.
    public let peer: HandoffPeer?
    /// A pidfd, readable once the process has ended; nil when the process cannot be seen from here.
    public let processDescriptor: Int32?
    private let socket: HandoffSocket?

    /// Of a Firecracker that a daemon before this one has accepted. The pidfd belongs to this value from the call on.
    public init(kept processDescriptor: Int32) {
        self.processDescriptor = processDescriptor
        peer = nil
        socket = nil
    }

    private init(_ socket: consuming HandoffSocket, _ peer: HandoffPeer) {
        let opened = pageferry_unix_peer_descriptor(socket.rawValue, peer.processIdentifier)
        processDescriptor = opened < 0 ? nil : opened
        self.peer = peer
        self.socket = .some(consume socket)
    }

    deinit { if let processDescriptor { close(processDescriptor) } }

    /// Whether the process has ended; false when it cannot be seen from here.
    public var hasEnded: Bool {
        guard let processDescriptor else { return false }
        var entry = pollfd(fd: processDescriptor, events: Int16(POLLIN), revents: 0)
        // SAFETY: one pollfd, this variable.
        return unsafe poll(&entry, 1, 0) > 0
    }

    /// Waits for a Firecracker to connect. A process of a user who may not is sent away; the wait goes on.
    public static func accept(_ listener: borrowing HandoffListener, timeoutNanoseconds: UInt64) throws(HandoffError)
        -> FirecrackerConnection
    {
        let deadline = HandoffDeadline(timeoutNanoseconds: timeoutNanoseconds)
        while true {
            let socket = try listener.acceptAny(deadline)
            let peer = try HandoffPeer(of: socket)
            if listener.permits(peer) { return FirecrackerConnection(socket, peer) }
        }
    }

    /// Reads the one message, however many pieces it comes in, and checks it. Nothing is ever answered: a Firecracker whose hand-off
    /// fails waits for its memory until it is ended.
    public borrowing func receiveRegions(timeoutNanoseconds: UInt64) throws(HandoffError) -> HandedOverRegions {
        var descriptors = ReceivedDescriptors()
        let text = try receiveText(&descriptors, HandoffDeadline(timeoutNanoseconds: timeoutNanoseconds))
        let announced = try FirecrackerMessage.regions(text)
        guard !announced.isEmpty else { throw .malformed(detail: "an empty array of regions") }
        guard descriptors.count > 0 else {
            throw .malformed(detail: "no descriptor came with the regions; Firecracker sends its userfaultfd")
        }
        // What comes beside the userfaultfd (a guest_memfd, a bitmap) belongs to protocols of its own.
        var userfault = ReceivedDescriptors()
        userfault.append(descriptors.take(0))
        var regions = HandedOverRegions()
        for (number, region) in announced.enumerated() {
            try regions.appendAnonymous(
                name: "memory\(number)", address: region.address, lengthBytes: region.lengthBytes, fileOffset: region.fileOffset,
                pageSizeBytes: UInt32(clamping: region.pageSizeBytes), &userfault)
            // It is the first region's now, and the others share it.
            userfault = ReceivedDescriptors()
        }
        return regions
    }

    private borrowing func receiveText(
        _ descriptors: inout ReceivedDescriptors, _ deadline: HandoffDeadline
    ) throws(HandoffError) -> [UInt8] {
        var scanner = ArrayEndScanner()
        var text: [UInt8] = []
        while text.count <= FirecrackerMessage.mostBytes {
            let piece = try receivePiece(&descriptors, deadline)
            guard !piece.isEmpty else { throw .connectionEnded(step: "before all of Firecracker's regions were in") }
            guard !descriptors.cutOff, descriptors.count <= Self.mostDescriptors else {
                throw .malformed(
                    detail: "more than \(Self.mostDescriptors) descriptors; Firecracker sends its userfaultfd, and at most two more")
            }
            text += piece
            guard let end = try scanner.scan(piece) else { continue }
            guard piece[end...].allSatisfy(ArrayEndScanner.isBlank) else { throw .malformed(detail: "something follows the regions") }
            return text
        }
        throw .malformed(detail: "a message longer than \(FirecrackerMessage.mostBytes) bytes")
    }

    private borrowing func receivePiece(
        _ descriptors: inout ReceivedDescriptors, _ deadline: HandoffDeadline
    ) throws(HandoffError) -> [UInt8] {
        switch socket {
        case .some(let socket): try socket.receiveSome(atMost: Self.pieceBytes, &descriptors, deadline, "waiting for Firecracker's regions")
        case .none: []
        }
    }
}
