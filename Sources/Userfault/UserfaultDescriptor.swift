import CShims
import Glibc

/// A userfaultfd: owned, closed at the end of its life. Non-blocking, close-on-exec. All calls are safe from any thread.
///
/// Installs work on every range of the process that is registered with any userfaultfd, but wake only the threads that wait
/// on this one: serve a range by the userfaultfd it was registered with.
///
/// Closing the last descriptor of a userfaultfd unregisters its ranges, and pages that are missing then read as zero:
/// whoever owns the memory must keep a descriptor of its own.
public struct UserfaultDescriptor: ~Copyable, Sendable {
    /// The descriptor, borrowed: for poll and io_uring, or to be sent. Never close it.
    public let rawValue: Int32
    /// The features that are on.
    public let features: UserfaultFeatures

    /// Opens a userfaultfd with `required` features, and those of `optional` the kernel has.
    ///
    /// Handles faults of kernel mode too (virtio and other I/O into guest memory), hence needs CAP_SYS_PTRACE,
    /// vm.unprivileged_userfaultfd=1 or access to /dev/userfaultfd.
    public init(required: UserfaultFeatures, optional: UserfaultFeatures = []) throws(UserfaultError) {
        // The handshake can be made once only and fails when it asks for what is absent: probe with another descriptor.
        let supported = try Self.supportedFeatures()
        guard supported.isSuperset(of: required) else {
            throw .missingFeatures(required.subtracting(supported))
        }
        let features = required.union(optional.intersection(supported))
        let descriptor = try Self.open()
        do throws(UserfaultError) {
            _ = try Self.handshake(descriptor, features)
        } catch {
            close(descriptor)
            throw error
        }
        rawValue = descriptor
        self.features = features
    }

    /// Takes over a descriptor that another process opened, made its handshake with, and sent.
    ///
    /// The descriptor belongs to this value from the call on: it is closed when it is refused. Sets O_NONBLOCK (for the
    /// sender too: it is a property of the open file) and close-on-exec.
    public init(adopting descriptor: Int32) throws(UserfaultError) {
        let found: UserfaultFeatures
        do throws(UserfaultError) {
            found = try Self.inspect(descriptor)
            let answer = pageferry_userfault_set_flags(descriptor)
            guard answer == 0 else { throw .systemCall(call: .flags, code: -answer) }
        } catch {
            close(descriptor)
            throw error
        }
        rawValue = descriptor
        features = found
    }

    deinit { close(rawValue) }

    /// Every feature of the running kernel.
    public static func supportedFeatures() throws(UserfaultError) -> UserfaultFeatures {
        let descriptor = try open()
        defer { close(descriptor) }
        return try handshake(descriptor, [])
    }

    /// Another owner of the same userfaultfd.
    public borrowing func duplicated() throws(UserfaultError) -> UserfaultDescriptor {
        // F_DUPFD_CLOEXEC, and the lowest number that is not a standard stream.
        let copy = fcntl(rawValue, F_DUPFD_CLOEXEC, 3)
        guard copy >= 0 else { throw .systemCall(call: .duplicate, code: errno) }
        return UserfaultDescriptor(owning: copy, features: features)
    }

    private init(owning descriptor: Int32, features: UserfaultFeatures) {
        rawValue = descriptor
        self.features = features
    }
}

// MARK: - Ranges

extension UserfaultDescriptor {
    /// Registers [address, address + lengthBytes) of this process's memory: from now on its accesses fault as `modes` say.
    /// - Returns: the operations the kernel offers on this range.
    @discardableResult
    public func register(
        address: UInt, lengthBytes: Int, modes: UserfaultModes
    ) throws(UserfaultError) -> UserfaultOperations {
        var operations: UInt64 = 0
        // SAFETY: the kernel writes one integer, into this variable.
        let answer = unsafe pageferry_userfault_register(
            rawValue, UInt64(address), UInt64(lengthBytes), modes.rawValue, &operations)
        guard answer == 0 else {
            throw .rangeRefused(address: address, lengthBytes: lengthBytes, code: -answer)
        }
        return UserfaultOperations(rawValue: operations)
    }

    /// Ends the registration of [address, address + lengthBytes) and wakes every thread that waits there: each retries
    /// its access, and pages still missing are filled with zeros.
    ///
    /// The kernel wakes the waiters before it clears the registration. A thread that faults in between, under its own
    /// mapping's lock alone (Linux 6.6 and later), would sleep for ever: the second wake, behind the clearing, finds it.
    public func unregister(address: UInt, lengthBytes: Int) throws(UserfaultError) {
        let answer = pageferry_userfault_unregister(rawValue, UInt64(address), UInt64(lengthBytes))
        try wake(address: address, lengthBytes: lengthBytes)
        guard answer == 0 else { throw .systemCall(call: .unregister, code: -answer) }
    }

    /// Whether a thread of the process waits, or is about to wait, until its event (remove, remap, fork, unmap) is read.
    ///
    /// The kernel counts such threads before they let go of the mapping's lock, and refuses every install while there is one,
    /// before it looks at the install's range: here at one that is empty, and does nothing.
    public var hasUnreadChanges: Bool { pageferry_userfault_zero(rawValue, 0, 0).error == EAGAIN }

    /// Lets the threads that wait in [address, address + lengthBytes) retry their accesses.
    public func wake(address: UInt, lengthBytes: Int) throws(UserfaultError) {
        let answer = pageferry_userfault_wake(rawValue, UInt64(address), UInt64(lengthBytes))
        guard answer == 0 else { throw .systemCall(call: .wake, code: -answer) }
    }
}

// MARK: - Events

extension UserfaultDescriptor {
    /// Reads the waiting events into `batch`, at most its capacity, without waiting. O(events).
    /// - Returns: their number; 0 when none waits. The process's end is not an event: watch its socket or pidfd.
    @discardableResult
    public func readEvents(into batch: inout UserfaultEventBatch) throws(UserfaultError) -> Int {
        batch.count = 0
        while true {
            let capacityBytes = UserfaultEventBatch.capacity * MemoryLayout<pageferry_userfault_message>.stride
            var span = batch.messages.mutableSpan
            // SAFETY: the span covers `capacityBytes` of plain integers, and the kernel writes no more than that.
            let answer = unsafe span.withUnsafeMutableBytes { bytes in
                unsafe read(rawValue, bytes.baseAddress, capacityBytes)
            }
            if answer >= 0 {
                batch.count = answer / MemoryLayout<pageferry_userfault_message>.stride
                return batch.count
            }
            switch errno {
            case EINTR: continue
            case EAGAIN: return 0
            case let code: throw .systemCall(call: .read, code: code)
            }
        }
    }

    /// Waits until an event can be read, at most `timeoutMilliseconds`; -1 waits for ever. False when none came.
    public func waitForEvents(timeoutMilliseconds: Int32) throws(UserfaultError) -> Bool {
        var waiting = pollfd(fd: rawValue, events: Int16(POLLIN), revents: 0)
        while true {
            // SAFETY: one pollfd, this variable.
            let answer = unsafe poll(&waiting, 1, timeoutMilliseconds)
            if answer > 0 {
                guard waiting.revents & Int16(POLLIN) != 0 else { throw .systemCall(call: .poll, code: EIO) }
                return true
            }
            if answer == 0 { return false }
            if errno != EINTR { throw .systemCall(call: .poll, code: errno) }
        }
    }
}
