import CShims
import Glibc

/// Operations. Each takes one entry of the submission queue and goes to the kernel with the next submission; its
/// completion carries `token`. When the queue is full it is submitted and tried again, a bounded number of times.
///
/// Pointers given here are the caller's promise: message headers and their vectors stay until the submission, what they
/// point to until the completion (for a zero-copy send: until its notification).
extension Ring {
    public mutating func nop(token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_nop(entry)
    }

    public mutating func receive(
        _ descriptor: Int32, into bytes: UnsafeMutableRawBufferPointer, flags: Int32 = 0, token: UInt64
    ) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_recv(entry, descriptor, bytes.baseAddress, bytes.count, flags)
    }

    public mutating func receiveMessage(
        _ descriptor: Int32, _ message: UnsafeMutablePointer<msghdr>, flags: Int32 = 0, token: UInt64
    ) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_recvmsg(entry, descriptor, message, UInt32(bitPattern: flags))
    }

    public mutating func send(
        _ descriptor: Int32, _ bytes: UnsafeRawBufferPointer, flags: Int32 = Int32(MSG_NOSIGNAL), token: UInt64
    ) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_send(entry, descriptor, bytes.baseAddress, bytes.count, flags)
    }

    public mutating func sendMessage(
        _ descriptor: Int32, _ message: UnsafePointer<msghdr>, flags: Int32 = Int32(MSG_NOSIGNAL), token: UInt64
    ) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_sendmsg(entry, descriptor, message, UInt32(bitPattern: flags))
    }

    /// Like `sendMessage`, without the kernel's copy (IORING_OP_SENDMSG_ZC, Linux 6.1): two completions, the count with
    /// `hasMore`, then, once the memory is free again, one with `isNotification`. A failed send may have the first alone.
    ///
    /// - Parameter reportsUsage: asks that the notification tell whether the kernel copied after all (Linux 6.2).
    public mutating func sendMessageZeroCopy(
        _ descriptor: Int32, _ message: UnsafePointer<msghdr>, flags: Int32 = Int32(MSG_NOSIGNAL),
        reportsUsage: Bool, token: UInt64
    ) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_sendmsg_zc(entry, descriptor, message, UInt32(bitPattern: flags))
        if reportsUsage { unsafe entry.pointee.ioprio |= UInt16(IORING_SEND_ZC_REPORT_USAGE) }
    }

    /// Watches a descriptor; a completion for each change, `hasMore` as long as the watch stands.
    public mutating func pollMultishot(_ descriptor: Int32, events: UInt32, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_poll_multishot(entry, descriptor, events)
    }

    /// Waits once for a descriptor.
    public mutating func pollOnce(_ descriptor: Int32, events: UInt32, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_poll_add(entry, descriptor, events)
    }

    /// Ends the poll that was prepared with `target`.
    public mutating func pollRemove(_ target: UInt64, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_poll_remove(entry, target)
    }

    public mutating func accept(_ descriptor: Int32, flags: Int32, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_accept(entry, descriptor, nil, nil, flags)
    }

    public mutating func connect(
        _ descriptor: Int32, _ address: UnsafePointer<sockaddr>, length: socklen_t, token: UInt64
    ) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_connect(entry, descriptor, address, length)
    }

    /// Completes with -ETIME after the time of `after`, which stays until the submission.
    public mutating func timeout(_ after: UnsafeMutablePointer<__kernel_timespec>, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_timeout(entry, after, 0, 0)
    }

    /// Ends the operation prepared last with -ECANCELED after the time of `after`. Prepared right behind an operation
    /// that `linkNext` was called for; both complete.
    public mutating func linkTimeout(_ after: UnsafeMutablePointer<__kernel_timespec>, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_link_timeout(entry, after, 0)
    }

    /// Ends the operation that was prepared with `target`.
    public mutating func cancel(_ target: UInt64, token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_cancel64(entry, target, 0)
    }

    /// Ends every operation in flight (Linux 5.19).
    public mutating func cancelAll(token: UInt64) throws(UringError) {
        let entry = unsafe try nextEntry(token)
        unsafe io_uring_prep_cancel64(entry, 0, Int32(IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL))
    }

    /// Ties the operation prepared last to the next one.
    ///
    /// - Precondition: something is prepared.
    public mutating func linkNext() {
        precondition(preparedCount > 0, "a link starts at a prepared operation")
        // SAFETY: the tail's predecessor is an entry that was filled and not yet submitted.
        let last = unsafe raw.pointee.sq.sqe_tail &- 1
        unsafe raw.pointee.sq.sqes[Int(last & raw.pointee.sq.ring_mask)].flags |= CShimsUring_linkNext
    }

    /// Makes sure that `count` operations can be prepared without a submission between them, as linked ones need.
    public mutating func reserve(_ count: Int) throws(UringError) {
        precondition(count <= entries, "a chain fits in the queue")
        for _ in 0..<Self.mostInterruptions {
            if Int(unsafe io_uring_sq_space_left(raw)) >= count { return }
            try submit()
        }
        throw .queueFull
    }

    /// The next free entry, its token set by what `io_uring_prep_*` leaves alone.
    private mutating func nextEntry(_ token: UInt64) throws(UringError) -> UnsafeMutablePointer<io_uring_sqe> {
        for _ in 0..<Self.mostInterruptions {
            // SAFETY: the library hands out an entry the kernel does not own; it is filled before the submission.
            if let entry = unsafe io_uring_get_sqe(raw) {
                unsafe io_uring_sqe_set_data64(entry, token)
                return unsafe entry
            }
            try submit()
        }
        throw .queueFull
    }
}
