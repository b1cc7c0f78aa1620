import CShims
import Glibc

extension Ring {
    /// Operations prepared and not yet given to the kernel.
    public var preparedCount: Int { Int(unsafe io_uring_sq_ready(raw)) }

    /// Whether completions lie ready, or a call of `submitAndCollect` would bring some. Reads memory only.
    public var hasWork: Bool {
        // SAFETY: the library's reads of indices it shares with the kernel, in the order it demands.
        unsafe io_uring_cq_ready(raw) > 0 || CShimsUring_needsEnter(raw)
    }

    /// Gives what is prepared to the kernel; no call when nothing is.
    public mutating func submit() throws(UringError) {
        try claim()
        guard preparedCount > 0 else { return }
        for _ in 0..<Self.mostInterruptions {
            let status = unsafe io_uring_submit(raw)
            if try Self.isDone(status) { return }
        }
        throw .submitFailed(errno: EINTR)
    }

    /// Gives what is prepared to the kernel and lets it post what has completed, without waiting.
    public mutating func submitAndCollect() throws(UringError) {
        try claim()
        for _ in 0..<Self.mostInterruptions {
            let status = unsafe io_uring_submit_and_get_events(raw)
            if try Self.isDone(status) { return }
        }
        throw .submitFailed(errno: EINTR)
    }

    /// Gives what is prepared to the kernel and waits until `minimum` completions are there, or the time is over.
    ///
    /// - Parameter timeoutNanoseconds: `UInt64.max` waits for as long as it takes.
    /// - Returns: false when the time was over or a signal came first.
    @discardableResult
    public mutating func submitAndWait(minimum: Int, timeoutNanoseconds: UInt64) throws(UringError) -> Bool {
        try claim()
        let seconds = min(timeoutNanoseconds / 1_000_000_000, UInt64(Int32.max))
        unsafe timeout.pointee.tv_sec = Int64(seconds)
        unsafe timeout.pointee.tv_nsec = Int64(timeoutNanoseconds % 1_000_000_000)
        var first: UnsafeMutablePointer<io_uring_cqe>?
        // SAFETY: the timespec lives as long as the ring; the completion is not taken through `first`.
        let status = unsafe io_uring_submit_and_wait_timeout(raw, &first, UInt32(minimum), timeout, nil)
        switch -status {
        case ETIME, EINTR, EAGAIN: return false
        case EBUSY: return true
        case let number where status < 0: throw .submitFailed(errno: number)
        default: return true
        }
    }

    /// Moves completions that lie ready into `buffer`, at most its capacity; each is handed out once.
    ///
    /// - Returns: their number, which is also `buffer.count`.
    @discardableResult
    public mutating func take(into buffer: inout CompletionBuffer) -> Int {
        // SAFETY: the buffer's storage has room for its capacity, and is written by this call alone.
        buffer.count = Int(unsafe CShimsUring_takeCompletions(raw, buffer.storage, UInt32(buffer.capacity)))
        return buffer.count
    }

    /// Hands each completion that lies ready to `body`, at most `limit`.
    ///
    /// - Returns: their number.
    @discardableResult
    public mutating func drain(limit: Int = 4096, _ body: (Completion) -> Void) -> Int {
        for index in 0..<limit {
            var one = CShimsUringCompletion()
            // SAFETY: there is room for the one completion asked for.
            guard unsafe CShimsUring_takeCompletions(raw, &one, 1) == 1 else { return index }
            body(Completion(one))
        }
        return limit
    }

    /// A pause for spin loops.
    @inline(__always)
    public static func relax() { CShimsUring_relax() }

    /// A signal may interrupt a call; more often than this in a row is no coincidence.
    static let mostInterruptions = 64

    /// Whether a submission was taken. EBUSY means that completions have to be taken first: nothing is lost, the
    /// entries stay prepared and go with the next call.
    private static func isDone(_ status: Int32) throws(UringError) -> Bool {
        if status >= 0 || status == -EBUSY || status == -EAGAIN { return true }
        if status == -EINTR { return false }
        throw .submitFailed(errno: -status)
    }
}
