import PageTransport
import PageWire
import Uring

extension StreamCore {
    mutating func close() {
        let deadline = Deadline(after: configuration.closeTimeoutNanoseconds)
        var handler = ClosingHandler()
        while deadline.remainingNanoseconds > 0, someLane({ !$0.isDrained }) {
            poll(&handler, wait: WaitPolicy(timeoutNanoseconds: deadline.remainingNanoseconds))
        }
        // A peer that learns that a bulk lane has ended takes the link for lost. What was said last went over the urgent lane: it gets to
        // read that first, and hangs up.
        lanes[0].endSending()
        let lastWord = Deadline(after: lanes.count > 1 ? min(Self.lastWordNanoseconds, deadline.remainingNanoseconds) : 0)
        while lanes[0].isOpen, lastWord.remainingNanoseconds > 0 {
            poll(&handler, wait: WaitPolicy(timeoutNanoseconds: lastWord.remainingNanoseconds))
        }
        for index in 1..<max(1, lanes.count) { lanes[index].endSending() }
        // Reading on until the peer closes too: bytes left unread would turn our close into a reset, and the peer
        // might lose what we have just sent.
        let grace = Deadline(after: min(Self.closeGraceNanoseconds, deadline.remainingNanoseconds))
        while grace.remainingNanoseconds > 0, someLane({ $0.isOpen }) {
            poll(&handler, wait: WaitPolicy(timeoutNanoseconds: grace.remainingNanoseconds))
        }
        endNow()
    }

    /// How long `close` leaves the peer alone with the last words.
    private static var lastWordNanoseconds: UInt64 { 1_000_000_000 }
    /// How long `close` waits for the peer's own close.
    private static var closeGraceNanoseconds: UInt64 { 100_000_000 }
    /// How long operations that have been shut down may take to complete.
    private static var endNanoseconds: UInt64 { 1_000_000_000 }

    /// Ends every lane and watch, and awaits the kernel's last word on their memory.
    mutating func endNow() {
        var handler = ClosingHandler()
        watches.unwatchAll(&ring)
        for index in 0..<lanes.count { lanes[index].end(.endOfStream) }
        settle(&handler)
        let deadline = Deadline(after: Self.endNanoseconds)
        while someLane({ !$0.isClosed }), deadline.remainingNanoseconds > 0 {
            do throws(UringError) {
                try ring.submitAndWait(minimum: 1, timeoutNanoseconds: deadline.remainingNanoseconds)
            } catch { break }
            ring.take(into: &completions)
            for index in 0..<completions.count { process(completions[index], &handler) }
            settle(&handler)
        }
        for index in 0..<lanes.count { _ = lanes[index].settle(isForced: true) }
    }

    private func someLane(_ isSo: (borrowing Lane) -> Bool) -> Bool {
        for index in 0..<lanes.count where isSo(lanes[index]) { return true }
        return false
    }
}

/// Takes what still comes while a transport closes, and drops it.
private struct ClosingHandler: TransportHandler {
    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget { .discard }
    mutating func arrived(_ header: FrameHeader, lane: LaneIndex) {}
    mutating func sent(_ token: UInt64, lane: LaneIndex) {}
    mutating func readable(_ token: UInt64) {}
    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) {}
}
