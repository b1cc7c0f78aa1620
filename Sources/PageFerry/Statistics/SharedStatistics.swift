import Synchronization

/// The latest figures of a session, written by its shard a few times a second and read by anyone.
public final class SharedStatistics: Sendable {
    private let latest = Mutex(SessionStatistics())

    public init() {}

    func publish(_ snapshot: SessionStatistics) {
        latest.withLock { $0 = snapshot }
    }

    public func read() -> SessionStatistics {
        latest.withLock { $0 }
    }
}
