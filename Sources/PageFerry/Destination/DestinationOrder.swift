import PageCore
import StreamTransport

/// What the control side tells a destination's shard.
enum DestinationOrder: Sendable {
    /// A piece of the return path for the source.
    case machineState([UInt8])
    case machineStateEnd
    /// The machine state is loaded: ask for the commit.
    case loaded
    /// The guest runs here.
    case resumed
    /// The source was found again after the link was lost.
    case restored(DestinationLink)
    /// It was looked for, and not found or not willing.
    case notFound(SessionError)
    /// Look for the source there from now on.
    case recover(StreamAddress)
    /// A region is taken out: its pages are given up, and everything that holds its memory is closed.
    case remove(RegionIndex)
    /// Its lanes are these from now on.
    case adopt(AdoptedSockets)
    /// End the session and tell the source why.
    case end(SessionError)
}

/// What a destination's shard tells the control side.
public enum DestinationNotice: Sendable {
    /// The guest has stopped on the source; its pages are being served.
    case guestStopped
    /// The source will never resume: the guest may run here.
    case committed
    /// The link was lost: the source is looked for. Whoever touches a missing page waits meanwhile.
    case paused(SessionError)
    /// The source was found again.
    case restored
    /// Nothing of the session holds the region's memory any more.
    case regionRemoved(RegionIndex)
    /// Every page is in, and nothing of the session is left in the guest's way.
    case allResident
    /// The session is over; nil when it completed.
    case ended(SessionError?)
}
