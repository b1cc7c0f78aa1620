import CShims

/// What became of one operation. Taken from the ring once, by value.
public struct Completion: Sendable, Hashable {
    /// The value given when the operation was prepared.
    public let token: UInt64
    /// The operation's result: a count or a descriptor, or the negated error number.
    public let result: Int32
    /// The kernel's `IORING_CQE_F_*` bits.
    public let flags: UInt32

    @inlinable
    public init(token: UInt64, result: Int32, flags: UInt32) {
        self.token = token
        self.result = result
        self.flags = flags
    }

    init(_ raw: CShimsUringCompletion) {
        self.init(token: raw.token, result: raw.result, flags: raw.flags)
    }

    /// More completions of the same operation will follow.
    public var hasMore: Bool { flags & IORING_CQE_F_MORE != 0 }
    /// The notification that a zero-copy send's memory is free again; its result is not a byte count.
    public var isNotification: Bool { flags & IORING_CQE_F_NOTIF != 0 }
    /// Of a notification: the kernel copied the bytes after all (IORING_SEND_ZC_REPORT_USAGE, Linux 6.2).
    public var wasCopied: Bool { isNotification && UInt32(bitPattern: result) & IORING_NOTIF_USAGE_ZC_COPIED != 0 }
    /// Of a receive: the socket holds more bytes.
    public var socketHoldsMore: Bool { flags & IORING_CQE_F_SOCK_NONEMPTY != 0 }
}

/// Room for the completions of one batch, allocated once.
@safe public struct CompletionBuffer: ~Copyable {
    let storage: UnsafeMutablePointer<CShimsUringCompletion>
    public let capacity: Int
    /// The completions in the buffer.
    public internal(set) var count = 0

    public init(capacity: Int) {
        precondition(capacity > 0, "a completion buffer has room")
        self.capacity = capacity
        unsafe storage = .allocate(capacity: capacity)
        // SAFETY: the storage was just allocated with this capacity.
        unsafe storage.initialize(repeating: CShimsUringCompletion(token: 0, result: 0, flags: 0), count: capacity)
    }

    deinit {
        unsafe storage.deallocate()
    }

    public mutating func removeAll() { count = 0 }

    /// Adds what was done past the ring.
    ///
    /// - Precondition: there is room.
    public mutating func append(_ completion: Completion) {
        precondition(count < capacity, "a completion buffer has room")
        // SAFETY: the index was just checked; all of the storage is initialized.
        unsafe storage[count] = CShimsUringCompletion(token: completion.token, result: completion.result, flags: completion.flags)
        count += 1
    }

    public subscript(_ index: Int) -> Completion {
        precondition(index >= 0 && index < count, "a completion's index is inside its batch")
        // SAFETY: the index was just checked; all of the storage is initialized.
        return unsafe Completion(storage[index])
    }
}
