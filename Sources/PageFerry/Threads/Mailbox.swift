import CShims
import Glibc
import PageCore
import Synchronization

/// Messages from any thread to one: the receiver sleeps on the descriptor, alone or beside others in its own loop.
///
/// Control path only (it locks and allocates); pages never pass through here.
public final class Mailbox<Message: Sendable>: Sendable {
    private let messages = Mutex<[Message]>([])
    /// An event descriptor, readable while messages wait.
    public let descriptor: Int32

    public init() {
        descriptor = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
        precondition(descriptor >= 0, "the process has no descriptor left (eventfd: error \(errno)); raise `ulimit -n`")
    }

    deinit { close(descriptor) }

    public func post(_ message: Message) {
        messages.withLock { $0.append(message) }
        eventfd_write(descriptor, 1)
    }

    /// Takes everything that waits, oldest first.
    public func takeAll() -> [Message] {
        var count: eventfd_t = 0
        // SAFETY: the kernel fills the local counter; an empty counter answers EAGAIN, which is no error here.
        _ = unsafe eventfd_read(descriptor, &count)
        return messages.withLock { messages in
            defer { messages.removeAll(keepingCapacity: true) }
            return messages
        }
    }

    /// Takes the oldest message, waiting for one.
    ///
    /// - Parameter deadlineNanoseconds: on the monotonic clock; nil waits for ever.
    /// - Returns: nil when the deadline has passed.
    public func next(deadlineNanoseconds: UInt64? = nil) -> Message? {
        while true {
            if let message = messages.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) { return message }
            var timeoutMilliseconds: Int32 = -1
            if let deadlineNanoseconds {
                let now = MonotonicClock.nowNanoseconds()
                guard now < deadlineNanoseconds else { return nil }
                timeoutMilliseconds = Int32(clamping: (deadlineNanoseconds - now) / 1_000_000 + 1)
            }
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            // SAFETY: one local entry, for the duration of the call.
            _ = unsafe poll(&entry, 1, timeoutMilliseconds)
            var count: eventfd_t = 0
            _ = unsafe eventfd_read(descriptor, &count)
        }
    }
}
