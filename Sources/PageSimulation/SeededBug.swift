/// A deliberate fault in the code around the engines. Each must be caught within a bounded number of seeds: a
/// simulator that lets one pass is not looking.
public enum SeededBug: String, Sendable, Hashable, CaseIterable {
    /// Payloads count as here when their first piece is.
    case installsBeforeComplete
    /// What was received over pages the guest gave up is left there.
    case leavesLateBytes
    /// Frames go into the second mapping although some of their pages were given up before.
    case receivesInPlaceAlways
    /// Now and then an extent is sent a second time.
    case pushesTwice
    /// The source helps itself to credit.
    case ignoresCredit
    /// The destination never returns credit after the first grant.
    case losesCredit
    /// A request that finds the queue full is taken for sent.
    case losesDemands
    /// Threads that wait for a page of zeros are not answered.
    case leavesZeroFaults
    /// A page whose copy the kernel refused is resolved to zeros.
    case resolvesParkedCopies
    /// Threads that touch a page which is here and was held are not answered.
    case leavesHeldFaults
    /// What the kernel refused is forgotten.
    case forgetsParked
    /// Removals that find the queue full are taken for told.
    case losesRemovals
    /// Parked installs of pages given up meanwhile are carried out.
    case installsRemovedParked
    /// Bulk goes out before demands.
    case pushesFirst
    /// The guest is set free while a lane still writes over pages it gave up.
    case releasesWhileWriting
    /// A slab is received into while pages in it wait to be copied.
    case reusesSlab
    /// What a broken lane left half-written stays.
    case keepsHalfPages
    /// After a lost link the source goes on from what it believes to have sent.
    case resumesWithItsOwnIdea
    /// After a lost link what had been asked for is not asked for again.
    case forgetsDemandsOfLostLinks
    /// What the lost link was carrying still arrives.
    case takesFramesOfLostLinks
    /// A page that is copied is on record before the kernel has the copy.
    case recordsCopiesEarly
    /// A page that is received in place is on record before its bytes are complete.
    case recordsBeforeComplete
    /// Pages that come by a slab are copied into memory that has a second mapping: they are visible before they are on record.
    case copiesIntoMapped
    /// A page given up while its copy was parked is not put on record.
    case forgetsRemovedCopies
    /// A daemon that takes over does not look at the record.
    case forgetsTheRecord
    /// A daemon that takes over leaves what the dead one had half received.
    case keepsStaleBytes
    /// A daemon that takes over does not wake who waits for an answer of the dead one.
    case forgetsToWake
    /// What a silence held back does not come when it is over, on a link that both sides take for sound.
    case losesWhatWasHeldBack
    /// A destination waits for an answer for ever, and does not notice that the source has closed the link.
    case hasBoundlessPatience
    /// A source that takes its link for sound does not take another from a destination that has come back.
    case keepsTheFirstLink
    /// A source takes a link that the destination has given up in place of a later one.
    case takesStaleLinks
    /// A source that has taken another link goes on taking frames from the one before.
    case mixesLinks
    /// The end is announced on a lane before the last frames.
    case announcesEndEarly
}
