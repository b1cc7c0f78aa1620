import CShims

/// What a userfaultfd tells, one message of read(2). Trivially copyable.
public enum UserfaultEvent: Sendable, Hashable {
    /// A thread waits for the page at `address`, which is rounded down to the page unless `exactAddress` is on.
    case pageFault(address: UInt, access: FaultAccess)
    /// The pages of [start, end) were given up: they must read as zero from now on.
    case remove(start: UInt, end: UInt)
    /// The range [start, end) was unmapped.
    case unmap(start: UInt, end: UInt)
    /// The range [from, from + lengthBytes) is now at `to`.
    case remap(from: UInt, to: UInt, lengthBytes: UInt)
    /// The process forked; `descriptor` serves the child. Whoever reads this event owns the descriptor.
    case fork(descriptor: Int32)
    /// An event this version does not know.
    case unknown(code: UInt8)

    @inlinable
    init(_ message: pageferry_userfault_message) {
        switch message.event {
        case 0x12: self = .pageFault(address: UInt(message.second), access: FaultAccess(rawValue: message.first))
        case 0x13: self = .fork(descriptor: Int32(truncatingIfNeeded: message.first))
        case 0x14: self = .remap(from: UInt(message.first), to: UInt(message.second), lengthBytes: UInt(message.third))
        case 0x15: self = .remove(start: UInt(message.first), end: UInt(message.second))
        case 0x16: self = .unmap(start: UInt(message.first), end: UInt(message.second))
        default: self = .unknown(code: message.event)
        }
    }
}

/// How a faulting thread touched its page: `UFFD_PAGEFAULT_FLAG_*`. Neither minor nor writeProtected: the page is missing.
public struct FaultAccess: OptionSet, Sendable, Hashable {
    public let rawValue: UInt64

    @inlinable
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    public static let write = Self(rawValue: 1 << 0)
    public static let writeProtected = Self(rawValue: 1 << 1)
    /// The page is in the page cache and only not mapped. Never proof that its bytes were received.
    public static let minor = Self(rawValue: 1 << 2)
}

/// The events of one read, in a fixed buffer to be kept and reused: 2 KiB, no allocation.
public struct UserfaultEventBatch: ~Copyable {
    /// The most events one read delivers.
    public static let capacity = 64

    @usableFromInline var messages: [64 of pageferry_userfault_message]
    /// The number of events of the last read.
    public internal(set) var count = 0

    public init() {
        messages = .init(repeating: pageferry_userfault_message())
    }

    /// The event at `index`, from 0 to `count`, in the order of reading. O(1).
    @inlinable
    public subscript(_ index: Int) -> UserfaultEvent {
        precondition(index >= 0 && index < count, "an event index stays inside its batch")
        return UserfaultEvent(messages[index])
    }
}
