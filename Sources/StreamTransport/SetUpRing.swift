import CShims
import Glibc
import Uring

/// One operation at a time with a time limit, through a small ring: for set-up, where a thread may wait.
@safe struct SetUpRing: ~Copyable {
    private var ring: Ring
    private let limit: UnsafeMutablePointer<__kernel_timespec>

    private enum Token {
        static let operation: UInt64 = 1
        static let limit: UInt64 = 2
        static let wake: UInt64 = 3
        static let cancel: UInt64 = 4
    }

    init() throws(StreamError) {
        do { ring = try Ring(entries: 8, completionEntries: 16, purpose: .setUp) } catch { throw .ring(error) }
        unsafe limit = .allocate(capacity: 1)
        unsafe limit.initialize(to: __kernel_timespec())
    }

    deinit {
        unsafe limit.deallocate()
    }

    /// Each of these returns the operation's result or its negated error number, -ETIME when the time was over.
    mutating func connect(_ descriptor: Int32, to address: SocketAddress, deadline: Deadline) throws(StreamError) -> Int32 {
        let prepared = unsafe address.withKernelForm { form, length -> UringError? in
            do throws(UringError) {
                // SAFETY: the kernel copies the address when it takes the submission, inside this closure.
                unsafe try ring.connect(descriptor, form, length: length, token: Token.operation)
                try limitLast(deadline)
                try ring.submit()
                return nil
            } catch { return error }
        }
        if let prepared { throw .ring(prepared) }
        return try outcome(deadline)
    }

    mutating func send(_ descriptor: Int32, _ bytes: UnsafeRawBufferPointer, deadline: Deadline) throws(StreamError) -> Int32 {
        do throws(UringError) {
            // SAFETY: `outcome` returns only when the operation has completed, and the caller's bytes live that long.
            unsafe try ring.send(descriptor, bytes, token: Token.operation)
            try limitLast(deadline)
        } catch { throw .ring(error) }
        return try outcome(deadline)
    }

    mutating func receive(_ descriptor: Int32, into bytes: UnsafeMutableRawBufferPointer, deadline: Deadline) throws(StreamError) -> Int32 {
        do throws(UringError) {
            // SAFETY: as for `send`.
            unsafe try ring.receive(descriptor, into: bytes, token: Token.operation)
            try limitLast(deadline)
        } catch { throw .ring(error) }
        return try outcome(deadline)
    }

    /// - Parameter wake: a descriptor that ends the wait with -ECANCELED once it is readable.
    mutating func accept(_ descriptor: Int32, wake: Int32?, deadline: Deadline) throws(StreamError) -> Int32 {
        do throws(UringError) {
            if let wake { try ring.pollOnce(wake, events: UInt32(POLLIN), token: Token.wake) }
            try ring.accept(descriptor, flags: Int32(SOCK_CLOEXEC.rawValue), token: Token.operation)
            try limitLast(deadline)
        } catch { throw .ring(error) }
        return try outcome(deadline, hasWake: wake != nil)
    }

    private mutating func limitLast(_ deadline: Deadline) throws(UringError) {
        ring.linkNext()
        let remaining = deadline.remainingNanoseconds
        unsafe limit.pointee.tv_sec = Int64(min(remaining / 1_000_000_000, UInt64(Int32.max)))
        unsafe limit.pointee.tv_nsec = Int64(remaining % 1_000_000_000)
        // SAFETY: the time limit lives as long as the ring.
        unsafe try ring.linkTimeout(limit, token: Token.limit)
    }

    /// Waits until the operation, its limit and the wake-up have all completed, so that nothing stays in flight.
    private mutating func outcome(_ deadline: Deadline, hasWake: Bool = false) throws(StreamError) -> Int32 {
        var result: Int32?
        var limitDone = false
        var wakeDone = !hasWake
        do throws(UringError) {
            while result == nil || !limitDone || !wakeDone {
                try ring.submitAndWait(minimum: 1, timeoutNanoseconds: .max)
                var woken = false
                ring.drain { completion in
                    switch completion.token {
                    case Token.operation: result = completion.result
                    case Token.limit: limitDone = true
                    case Token.wake:
                        wakeDone = true
                        woken = true
                    default: break
                    }
                }
                if woken, result == nil { try ring.cancel(Token.operation, token: Token.cancel) }
                if result != nil, limitDone, !wakeDone { try ring.pollRemove(Token.wake, token: Token.cancel) }
            }
        } catch { throw .ring(error) }
        let number = result ?? -EIO
        // An operation that was ended by its time limit says so in one of two ways: it was cancelled while it waited, or
        // interrupted on a kernel thread.
        if number == -ECANCELED || number == -EINTR, deadline.remainingNanoseconds == 0 { return -ETIME }
        return number
    }
}
