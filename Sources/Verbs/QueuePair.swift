import CShims
import Glibc

/// One piece of work for a queue pair.
public struct Work: Sendable {
    var raw: pageferry_verbs_work

    /// Reads the peer's memory (RDMA READ) into registered memory of this host.
    public static func read(
        from remote: UInt64, key remoteKey: UInt32, into local: UInt, key localKey: UInt32, lengthBytes: Int, token: UInt64
    ) -> Work {
        Work(
            raw: pageferry_verbs_work(
                token: token, local: UInt64(local), remote: remote, length: UInt32(lengthBytes), local_key: localKey,
                remote_key: remoteKey, immediate: 0, operation: UInt32(PAGEFERRY_VERBS_READ), is_inline: 0))
    }

    /// Writes registered memory of this host into the peer's (RDMA WRITE), which learns of it by `immediate`.
    public static func write(
        from local: UInt, key localKey: UInt32, to remote: UInt64, key remoteKey: UInt32, lengthBytes: Int, immediate: UInt32,
        token: UInt64
    ) -> Work {
        Work(
            raw: pageferry_verbs_work(
                token: token, local: UInt64(local), remote: remote, length: UInt32(lengthBytes), local_key: localKey,
                remote_key: remoteKey, immediate: immediate, operation: UInt32(PAGEFERRY_VERBS_WRITE_IMMEDIATE), is_inline: 0))
    }

    /// Sends a message, with `immediate` beside it. An inline one is copied as it is posted.
    public static func send(
        from local: UInt, key localKey: UInt32, lengthBytes: Int, immediate: UInt32, isInline: Bool, token: UInt64
    ) -> Work {
        Work(
            raw: pageferry_verbs_work(
                token: token, local: UInt64(local), remote: 0, length: UInt32(lengthBytes), local_key: localKey, remote_key: 0,
                immediate: immediate, operation: UInt32(PAGEFERRY_VERBS_SEND_IMMEDIATE), is_inline: isInline ? 1 : 0))
    }
}

/// The owner of a reliable connected queue pair (rdma_create_qp(3)). Goes before its identifier and its completion queue.
@safe public struct QueuePair: ~Copyable {
    private let identifier: UnsafeMutablePointer<rdma_cm_id>
    private let raw: UnsafeMutablePointer<ibv_qp>
    private let domain: ProtectionDomain
    /// Bytes of a message that can be sent inline.
    public let mostInlineBytes: Int

    /// The most pieces posted with one doorbell.
    public static let mostWork = Int(PAGEFERRY_VERBS_MOST_WORK)

    /// - Parameters:
    ///   - identifier: must outlive the queue pair.
    ///   - sends: pieces of work that may be outstanding.
    ///   - receives: buffers that may be posted.
    public init(
        on identifier: borrowing ConnectionIdentifier, domain: ProtectionDomain, completingInto queue: borrowing CompletionQueue,
        sends: Int, receives: Int, inlineBytes: Int
    ) throws(VerbsError) {
        // SAFETY: all three live at least as long as the queue pair, as documented.
        let status = unsafe pageferry_verbs_create_queue_pair(
            identifier.raw, domain.raw, queue.raw, UInt32(sends), UInt32(receives), UInt32(inlineBytes))
        guard status == 0, let pair = unsafe identifier.raw.pointee.qp else {
            throw .failed(call: .createQueuePair, errno: -status)
        }
        unsafe self.identifier = identifier.raw
        unsafe raw = pair
        self.domain = domain
        mostInlineBytes = inlineBytes
    }

    deinit {
        // SAFETY: the identifier still lives; its queue pair is destroyed once.
        unsafe rdma_destroy_qp(identifier)
    }

    /// Posts the first `count` pieces with one doorbell; they start in this order.
    public mutating func post(_ work: borrowing WorkList) throws(VerbsError) {
        guard work.count > 0 else { return }
        var posted: Int32 = 0
        // SAFETY: the list holds `count` pieces; memory they name is registered and kept by whoever listed them.
        let status = unsafe pageferry_verbs_post(raw, work.storage, Int32(work.count), &posted)
        guard status == 0 else { throw .failed(call: .post, errno: -status) }
    }

    /// Gives a buffer for one message.
    public mutating func postReceive(into address: UInt, lengthBytes: Int, key: UInt32, token: UInt64) throws(VerbsError) {
        // SAFETY: the buffer is registered under the key, and left alone until its completion.
        let status = unsafe pageferry_verbs_post_receive(raw, token, UInt64(address), UInt32(lengthBytes), key)
        guard status == 0 else { throw .failed(call: .postReceive, errno: -status) }
    }
}

/// Work gathered for one doorbell; at most `QueuePair.mostWork` pieces.
@safe public struct WorkList: ~Copyable {
    let storage: UnsafeMutablePointer<pageferry_verbs_work>
    public private(set) var count = 0

    public init() { unsafe storage = .allocate(capacity: QueuePair.mostWork) }

    deinit { unsafe storage.deallocate() }

    public var isFull: Bool { count == QueuePair.mostWork }

    public mutating func append(_ work: Work) {
        precondition(!isFull, "a list holds no more than one doorbell takes")
        // SAFETY: the place lies inside the capacity; the type is trivial.
        unsafe (storage + count).initialize(to: work.raw)
        count += 1
    }

    public mutating func removeAll() { count = 0 }
}
