import Glibc
import PageCore
import PageEngine

extension SourceCore {
    /// Waits without a link until the destination comes back, the session is ended, or the pause has lasted too long.
    mutating func waitForLink(_ statistics: SharedStatistics) {
        let began = MonotonicClock.nowNanoseconds()
        statistics.publish(snapshot())
        while ending == nil, restored == nil {
            let paused = MonotonicClock.nowNanoseconds() - began
            guard paused < pauseNanoseconds else { return end(lost) }
            let left = pauseNanoseconds == .max ? UInt64.max : pauseNanoseconds - paused
            var entry = pollfd(fd: mailbox.descriptor, events: Int16(POLLIN), revents: 0)
            // SAFETY: one local entry, for the duration of the call.
            _ = unsafe poll(&entry, 1, left == .max ? -1 : Int32(clamping: left / 1_000_000 + 1))
            readable(SourceCore.mailboxToken)
        }
    }

    /// What the session has done so far.
    func snapshot() -> SessionStatistics {
        var snapshot = SessionStatistics()
        snapshot.totalPages = engine.layout.totalPages
        snapshot.missingPages = isExposed && lastPageNanoseconds != nil ? 0 : engine.unsentPages
        snapshot.counts = engine.counts
        snapshot.faults = engine.requestCount
        snapshot.guestStoppedNanoseconds = guestStoppedNanoseconds
        snapshot.resumedNanoseconds = resumedNanoseconds
        snapshot.lastPageNanoseconds = lastPageNanoseconds
        snapshot.pausedNanoseconds = pausedNanoseconds
        snapshot.pauseCount = pauseCount
        snapshot.obstacle = lost
        snapshot.phase = SessionPhase(ending, isPaused: lost != nil, hasStopped: guestStoppedNanoseconds != nil)
        return snapshot
    }
}

extension SessionPhase {
    init(_ ending: SessionError??, isPaused: Bool, hasStopped: Bool) {
        self =
            switch ending {
            case .some(.none): .completed
            case .some(.some(.cancelled)): .cancelled
            case .some(.some): .failed
            case .none: isPaused ? .postcopyPaused : hasStopped ? .postcopyActive : .active
            }
    }
}
