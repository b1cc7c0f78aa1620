import Glibc
import PageTransport
import PageWire
import Uring

extension StreamCore {
    mutating func flush() {
        do throws(UringError) {
            try prepareSends()
            try ring.submit()
        } catch { ringFailed(error) }
    }

    mutating func poll<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, wait: WaitPolicy) {
        completions.removeAll()
        // A lane that ended outside of `poll`, or with the last batch, has news for its owner without any completion.
        let hasNews = settle(&handler)
        do throws(UringError) {
            try prepareSends()
            try collect(hasNews ? .immediate : wait, &handler)
        } catch { ringFailed(error) }
        for index in 0..<completions.count { process(completions[index], &handler) }
        settle(&handler)
    }

    /// Puts the sends that can start into the submission queue, and watches not yet armed.
    private mutating func prepareSends() throws(UringError) {
        for index in 0..<lanes.count { try lanes[index].prepareSend(&ring) }
        try watches.prepare(&ring)
    }

    /// - Parameter first: the first lane that is asked.
    private mutating func prepareReceives(from first: Int) throws(UringError) {
        for index in first..<lanes.count { try lanes[index].prepareReceive(&ring) }
    }

    /// Submits, and takes one batch of completions: what is there, or else what comes within the waiting time.
    private mutating func collect<Handler: TransportHandler & ~Copyable>(
        _ wait: WaitPolicy, _ handler: inout Handler
    ) throws(UringError) {
        let spin = min(wait.spinNanoseconds, wait.timeoutNanoseconds)
        didSpinInVain = false
        if spin > 0 {
            if try self.spin(Deadline(after: spin), &handler) { return }
            didSpinInVain = true
        }
        try prepareReceives(from: 0)
        if wait.timeoutNanoseconds == 0 || ring.hasWork {
            if ring.preparedCount > 0 || ring.hasWork { try ring.submitAndCollect() }
            if ring.take(into: &completions) > 0 || wait.timeoutNanoseconds == 0 { return }
        }
        let rest = wait.timeoutNanoseconds == .max ? .max : wait.timeoutNanoseconds - spin
        if rest > 0 { try ring.submitAndWait(minimum: 1, timeoutNanoseconds: rest) }
        ring.take(into: &completions)
    }

    /// Looks for completions until there are some or the spinning time is over.
    ///
    /// The urgent lane and one eager watch are tried directly, by a call each that is not the ring's: a tenth to a quarter of a fault's
    /// time less than by way of submissions and completions (decision 12), and the processor is spent either way. The other lanes
    /// and the watches announce themselves in shared memory.
    ///
    /// - Returns: whether something has come.
    private mutating func spin<Handler: TransportHandler & ~Copyable>(
        _ deadline: Deadline, _ handler: inout Handler
    ) throws(UringError) -> Bool {
        repeat {
            try prepareReceives(from: 1)
            if ring.preparedCount > 0 || ring.hasWork {
                try ring.submitAndCollect()
                ring.take(into: &completions)
                if completions.count > 0 { return true }
            }
            if let received = lanes[0].receiveNow() {
                completions.append(received)
                return true
            }
            if watches.nextEager({ handler.tried($0) }) { return true }
            Ring.relax()
        } while deadline.remainingNanoseconds > 0
        return false
    }

    mutating func process<Handler: TransportHandler & ~Copyable>(_ completion: Completion, _ handler: inout Handler) {
        let operation = OperationToken(rawValue: completion.token)
        switch operation.kind {
        case .receive: lanes[operation.index].received(completion, handler: &handler)
        case .send: lanes[operation.index].sent(completion, number: operation.number, handler: &handler)
        case .watch: if let token = watches.completed(completion) { handler.readable(token) }
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
