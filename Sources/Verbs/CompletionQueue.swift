import CShims
import Glibc

/// One completion of a queue pair's work.
public struct WorkCompletion: Sendable {
    /// What the work was posted with.
    public let token: UInt64
    public let status: WorkStatus
    /// Whether it is a message, or a write with immediate data, that came from the peer.
    public let isReceive: Bool
    /// Whether it is the peer's write into memory of this host.
    public let isRemoteWrite: Bool
    /// Bytes received; meaningful for receives that succeeded.
    public let lengthBytes: Int
    /// What the peer sent along.
    public let immediate: UInt32?

    init(_ raw: pageferry_verbs_completion) {
        token = raw.token
        status = WorkStatus(code: raw.status)
        isReceive = raw.opcode & IBV_WC_RECV.rawValue != 0
        isRemoteWrite = raw.opcode == IBV_WC_RECV_RDMA_WITH_IMM.rawValue
        lengthBytes = Int(raw.length)
        immediate = raw.has_immediate != 0 ? raw.immediate : nil
    }
}

/// Room for one batch of completions.
@safe public struct WorkCompletionBatch: ~Copyable {
    public static let capacity = 32
    public internal(set) var count = 0
    let storage: UnsafeMutablePointer<pageferry_verbs_completion>

    public init() {
        unsafe storage = .allocate(capacity: Self.capacity)
        unsafe storage.initialize(repeating: pageferry_verbs_completion(), count: Self.capacity)
    }

    deinit { unsafe storage.deallocate() }

    public subscript(_ index: Int) -> WorkCompletion {
        precondition(index >= 0 && index < count, "an index is inside its batch")
        // SAFETY: the index was just checked against the filled part.
        return unsafe WorkCompletion(storage[index])
    }
}

/// The owner of a completion queue and of the channel that announces its completions (ibv_create_cq(3)).
///
/// Must outlive the queue pairs that complete into it.
@safe public struct CompletionQueue: ~Copyable {
    private let channel: UnsafeMutablePointer<ibv_comp_channel>
    let raw: UnsafeMutablePointer<ibv_cq>

    /// - Parameter entries: completions it can hold; never more work may be outstanding.
    public init(of identifier: borrowing ConnectionIdentifier, entries: Int) throws(VerbsError) {
        guard let context = unsafe identifier.raw.pointee.verbs else { throw .noDevice(errno: ENODEV) }
        // SAFETY: the context belongs to the identifier's device, which librdmacm keeps open.
        guard let channel = unsafe ibv_create_comp_channel(context) else {
            throw .failed(call: .createCompletionChannel, errno: errno)
        }
        let status = unsafe pageferry_verbs_set_nonblocking(channel.pointee.fd)
        guard status == 0, let queue = unsafe ibv_create_cq(context, Int32(entries), nil, channel, 0) else {
            let number = status == 0 ? errno : -status
            unsafe ibv_destroy_comp_channel(channel)
            throw .failed(call: .createCompletionQueue, errno: number)
        }
        unsafe self.channel = channel
        unsafe raw = queue
    }

    deinit {
        // SAFETY: no queue pair uses the queue any more; its events have all been acknowledged as they were taken.
        unsafe ibv_destroy_cq(raw)
        unsafe ibv_destroy_comp_channel(channel)
    }

    /// Readable once an event waits, after `arm`.
    public var descriptor: Int32 { unsafe channel.pointee.fd }

    /// Takes up to a batch of completions; no system call.
    ///
    /// - Returns: their number.
    @discardableResult
    public mutating func poll(into batch: inout WorkCompletionBatch) throws(VerbsError) -> Int {
        // SAFETY: the storage has room for the capacity.
        let count = unsafe pageferry_verbs_poll(raw, batch.storage, Int32(WorkCompletionBatch.capacity))
        guard count >= 0 else {
            batch.count = 0
            throw .failed(call: .pollQueue, errno: -count)
        }
        batch.count = Int(count)
        return batch.count
    }

    /// Asks for an event with the next completion. Poll once more afterwards: what came before makes none.
    public mutating func arm() throws(VerbsError) {
        let status = unsafe pageferry_verbs_arm(raw)
        guard status == 0 else { throw .failed(call: .requestNotification, errno: -status) }
    }

    /// Takes and acknowledges the events that wait.
    public mutating func takeEvents() {
        _ = unsafe pageferry_verbs_take_events(channel, raw)
    }
}
