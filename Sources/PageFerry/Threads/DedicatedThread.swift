import CShims
import Glibc
import Synchronization

/// A thread of its own for a loop that must never share one: a shard, a relay.
public final class DedicatedThread: Sendable {
    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void
        init(_ name: String, _ run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    private let handle: pthread_t
    private let isJoined = Atomic<Bool>(false)

    /// Makes the calling thread the first to run when something happens: a thread that a guest waits for must not wait
    /// itself, least of all behind the guest thread it has just woken. Where the host does not allow it (no CAP_SYS_NICE,
    /// no RLIMIT_NICE) nothing changes.
    public static func preferCurrent() {
        // On Linux this is the nice value of the calling thread alone (setpriority(2), "C library/kernel differences").
        _ = setpriority(Int32(PRIO_PROCESS.rawValue), 0, -20)
    }

    /// Starts a thread that runs `body` once.
    ///
    /// - Parameters:
    ///   - name: shown by `ps -L` and debuggers; the kernel keeps 15 bytes of it.
    ///   - body: what it runs; whatever it captures is let go when it returns.
    public init(name: String, _ body: @escaping @Sendable () -> Void) {
        var handle = pthread_t()
        // SAFETY: the retained box is taken back exactly once, by the thread that was created with it.
        let box = unsafe Unmanaged.passRetained(Body(name, body)).toOpaque()
        let status = unsafe pthread_create(
            &handle, nil,
            { box in
                guard let box = unsafe box else { return nil }
                let body = unsafe Unmanaged<Body>.fromOpaque(box).takeRetainedValue()
                unsafe CShims_setThreadName(String(body.name.prefix(15)))
                body.run()
                return nil
            }, box)
        precondition(status == 0, "the host has no thread left (pthread_create: error \(status))")
        self.handle = handle
    }

    /// Waits until the body has returned. Call at most once.
    public func join() {
        isJoined.store(true, ordering: .relaxed)
        pthread_join(handle, nil)
    }

    /// A thread nobody waits for gives its stack back when it ends.
    deinit {
        if !isJoined.load(ordering: .relaxed) { pthread_detach(handle) }
    }
}
