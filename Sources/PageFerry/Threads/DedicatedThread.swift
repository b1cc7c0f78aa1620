import CShims
import Glibc

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

    /// Starts a thread that runs `body` once.
    ///
    /// - Parameter name: shown by `ps -L` and debuggers; the kernel keeps 15 bytes of it.
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
        pthread_join(handle, nil)
    }
}
