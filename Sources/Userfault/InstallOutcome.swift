/// What became of an attempt to make a range of pages visible to the guest.
public enum InstallOutcome: Sendable, Hashable {
    /// Every page of the range is now mapped, at least one by this call, but for those that nobody can touch, since their addresses are
    /// not mapped, or not registered, any more. Waiting threads run.
    case installed
    /// Every page of the range was mapped before. Waiting threads were woken.
    case alreadyPresent
    /// The first `doneBytes` of the range are mapped and their threads run; the rest stopped at `obstacle`.
    case partially(doneBytes: Int, obstacle: InstallObstacle)
    /// Nothing done: an event (remove, remap, fork, unmap) waits to be read. Read events, then try again.
    case retryAfterEvents
    /// Nothing done: the process whose memory this was has gone.
    case vmmGone
    /// Nothing done: the range is not, or no longer, registered with this userfaultfd, or not mapped.
    case unregistered
    /// Nothing done: the kernel refused with `code`, an errno. EFAULT from `continueRange`: a page is absent from the file.
    case failed(code: Int32)

    @inlinable
    init(doneBytes: Int, obstacle: InstallObstacle) {
        guard doneBytes == 0 else {
            self = .partially(doneBytes: doneBytes, obstacle: obstacle)
            return
        }
        switch obstacle {
        case .retryAfterEvents: self = .retryAfterEvents
        case .vmmGone: self = .vmmGone
        case .unregistered: self = .unregistered
        case .failed(let code): self = .failed(code: code)
        }
    }
}

/// Why an install stopped short.
public enum InstallObstacle: Sendable, Hashable {
    /// An event waits to be read first.
    case retryAfterEvents
    /// The process has gone.
    case vmmGone
    /// The range is not registered, or not mapped.
    case unregistered
    /// An errno without a meaning of its own here.
    case failed(code: Int32)
}
