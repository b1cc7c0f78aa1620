/// How a session's thread waits for its next event.
public enum Polling: Sendable, Hashable {
    /// Never sleeps: the soonest answer, for a processor of its own.
    case busy
    /// Spins while a thread waits for a page, for up to eight times this, and this long after; sleeps at once where all processors
    /// of the host have something to run, for pages nobody waits for, and for a while when spinning for answers was in vain.
    case adaptive(spinNanoseconds: UInt64 = 50_000)
    /// Sleeps at once.
    case event
}
