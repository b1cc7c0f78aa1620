/// What the control side tells a source's shard.
enum SourceOrder: Sendable {
    /// The guest has stopped: its memory is final.
    case guestStopped
    /// A piece of machine state for the destination.
    case machineState([UInt8])
    case machineStateEnd
    /// The switch: from here on the source never resumes.
    case commit
    /// The destination has come back after the link was lost, or before that was noticed here.
    case restored(SourceLink)
    /// End the session and tell the destination why.
    case end(SessionError)
    /// The same, if pages are still owed.
    case memoryLost(SessionError)
}

/// What a source's shard tells the control side.
public enum SourceNotice: Sendable {
    /// The destination has loaded the machine state, and asks for the commit.
    case loaded
    /// The guest runs at the destination.
    case resumed
    /// The link was lost: the destination is waited for.
    case paused(SessionError)
    /// The destination has come back.
    case restored
    /// Every page is at the destination.
    case allResident
    /// The session is over; nil when it completed.
    case ended(SessionError?)
}
