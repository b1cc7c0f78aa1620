import PageTransport
import PageWire
import Uring

extension StreamCore {
    mutating func flush() {
        do throws(UringError) {
            try prepare()
            try ring.submit()
        } catch { ringFailed(error) }
    }

    mutating func poll<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, wait: WaitPolicy) {
        completions.removeAll()
        // A lane that ended outside of `poll`, or with the last batch, has news for its owner without any completion.
        let hasNews = settle(&handler)
        do throws(UringError) {
            try prepare()
            try collect(hasNews ? .immediate : wait)
        } catch { ringFailed(error) }
        for index in 0..<completions.count { process(completions[index], &handler) }
        settle(&handler)
    }

    /// Puts into the submission queue what should be in flight and is not.
    private mutating func prepare() throws(UringError) {
        for index in 0..<lanes.count { try lanes[index].prepare(&ring) }
        try prepareWatches()
    }

    /// Submits, and takes one batch of completions: what is there, or else what comes within the waiting time.
    private mutating func collect(_ wait: WaitPolicy) throws(UringError) {
        if wait.timeoutNanoseconds == 0 || wait.spinNanoseconds > 0 || ring.hasWork {
            if ring.preparedCount > 0 || ring.hasWork { try ring.submitAndCollect() }
            if ring.take(into: &completions) > 0 || wait.timeoutNanoseconds == 0 { return }
            if wait.spinNanoseconds > 0, try spin(wait) { return }
        }
        let rest = wait.timeoutNanoseconds == .max ? .max : wait.timeoutNanoseconds - min(wait.timeoutNanoseconds, wait.spinNanoseconds)
        if rest > 0 { try ring.submitAndWait(minimum: 1, timeoutNanoseconds: rest) }
        ring.take(into: &completions)
    }

    /// Watches shared memory, without system calls, until something completes or the spinning time is over.
    ///
    /// - Returns: whether completions were taken.
    private mutating func spin(_ wait: WaitPolicy) throws(UringError) -> Bool {
        let deadline = Deadline(after: min(wait.spinNanoseconds, wait.timeoutNanoseconds))
        repeat {
            for _ in 0..<Self.looksPerClockReading {
                if ring.hasWork {
                    try ring.submitAndCollect()
                    if ring.take(into: &completions) > 0 { return true }
                }
                Ring.relax()
            }
        } while deadline.remainingNanoseconds > 0
        return false
    }

    private static var looksPerClockReading: Int { 16 }

    mutating func process<Handler: TransportHandler & ~Copyable>(_ completion: Completion, _ handler: inout Handler) {
        let operation = OperationToken(rawValue: completion.token)
        switch operation.kind {
        case .receive: lanes[operation.index].received(completion, handler: &handler)
        case .send: lanes[operation.index].sent(completion, number: operation.number, handler: &handler)
        case .watch: if let token = watchCompleted(completion, operation) { handler.readable(token) }
        case .housekeeping, nil: break
        }
    }

    /// Tells of the lanes that have become closed.
    ///
    /// - Returns: whether there were any.
    @discardableResult
    mutating func settle<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) -> Bool {
        var hasNews = false
        for index in 0..<lanes.count {
            guard let reason = lanes[index].settle(isForced: isBroken) else { continue }
            hasNews = true
            handler.closed(lanes[index].index, reason)
        }
        return hasNews
    }

    /// The ring itself failed: nothing can be awaited any more, so every lane ends at once.
    private mutating func ringFailed(_ error: UringError) {
        isBroken = true
        for index in 0..<lanes.count { lanes[index].end(.failed(errno: error.errorNumber)) }
    }
}
