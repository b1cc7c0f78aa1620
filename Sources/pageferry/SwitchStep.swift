import Glibc

/// The steps of a switch, in their order on each side. The commit lies between `completed` and `committed`, on the source:
/// before it whatever fails leaves the guest running there, after it the guest never runs there again.
///
/// A debug build stops itself (SIGSTOP) at the step that the environment's PAGEFERRY_STOP_AT names, so that tests can kill
/// it, cut its links or end its peer right there.
enum SwitchStep: String {
    // MARK: Source

    /// QEMU is set up for the migration, which has not begun.
    case prepared = "source-prepared"
    /// QEMU writes the machine state.
    case started = "source-started"
    /// The guest has stopped here.
    case stopped = "source-stopped"
    /// The destination has loaded the machine state, and QEMU here has confirmed it: all that a commit waits for.
    case completed = "source-completed"
    /// The guard is released: this is the commit. The destination does not know yet.
    case committed = "source-committed"
    /// The destination is told.
    case announced = "source-announced"

    // MARK: Destination

    /// QEMU waits for its memory to be accepted.
    case handedOver = "destination-handed-over"
    /// The source is told to go on; QEMU takes the machine state.
    case loading = "destination-loading"
    /// QEMU has loaded the machine state and is paused; the source is not told yet.
    case loaded = "destination-loaded"
    /// The source is told.
    case confirmed = "destination-confirmed"
    /// The source has committed; the guest is still paused.
    case taken = "destination-taken"
    /// The guest runs here.
    case resumed = "destination-resumed"

    #if DEBUG
        private static let stop = unsafe getenv("PAGEFERRY_STOP_AT").map { unsafe String(cString: $0) }
    #endif

    /// Says that this step is reached.
    func reached() {
        #if DEBUG
            // SAFETY: the value is a copy of the environment's.
            if Self.stop == rawValue { raise(SIGSTOP) }
        #endif
    }
}
