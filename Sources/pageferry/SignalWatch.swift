import Glibc
import PageFerry

/// SIGINT and SIGTERM as calls on a thread of their own, so that the first asks for an orderly end.
enum SignalWatch {
    /// Blocks both signals in this thread and all started later, and reports each to `handler`. Call once, first.
    static func start(_ handler: @escaping @Sendable (Int32) -> Void) {
        var signals = sigset_t()
        // SAFETY: the set is local and initialized by sigemptyset before it is read.
        unsafe sigemptyset(&signals)
        unsafe sigaddset(&signals, SIGINT)
        unsafe sigaddset(&signals, SIGTERM)
        unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
        _ = signal(SIGPIPE, SIG_IGN)
        _ = DedicatedThread(name: "signals") {
            var signals = sigset_t()
            unsafe sigemptyset(&signals)
            unsafe sigaddset(&signals, SIGINT)
            unsafe sigaddset(&signals, SIGTERM)
            while true {
                var number: Int32 = 0
                if unsafe sigwait(&signals, &number) == 0 { handler(number) }
            }
        }
    }
}
