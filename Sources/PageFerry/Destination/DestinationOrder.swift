/// What the control side tells a destination's shard.
enum DestinationOrder: Sendable {
    /// A piece of the return path for the source.
    case machineState([UInt8])
    case machineStateEnd
    /// The machine state is loaded: ask for the commit.
    case loaded
    /// The guest runs here.
    case resumed
    /// End the session and tell the source why.
    case end(SessionError)
}

/// What a destination's shard tells the control side.
public enum DestinationNotice: Sendable {
    /// The guest has stopped on the source; its pages are being served.
    case guestStopped
    /// The source will never resume: the guest may run here.
    case committed
    /// Every page is in, and nothing of the session is left in the guest's way.
    case allResident
    /// The session is over; nil when it completed.
    case ended(SessionError?)
}
