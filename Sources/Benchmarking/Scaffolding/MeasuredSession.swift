import PageCore
import PageEngine
import PageFerry
import PageWire
import StreamTransport
import Synchronization

/// The settings of a session that is measured.
struct SessionSettings: Sendable {
    var mode = WaitMode.busy
    /// Blocks of one size around every fault; nil for adaptive windows.
    var windowBytes: Int?
    /// Bytes of push in flight; 0 for no push.
    var creditBytes = DestinationSession.Configuration().creditBytes
    var bulkLanes = 2
    var transport = TransportChoice.tcp
    /// Over RDMA, who moves the pages nobody asked for.
    var push = PushMethod.read
    /// Pulled before anybody asks.
    var replay: PageTrace?
    var statisticsIntervalNanoseconds: UInt64 = 50_000_000
    var security = LaneSecurity.plain
}

/// A destination session in this process over memory of its own, from the handshake until it is joined.
final class MeasuredSession: Sendable {
    private let session: DestinationSession
    private let notices: Mailbox<DestinationNotice>
    /// Set once the session's thread was joined: the reason it gave.
    private let ending = Mutex<SessionError??>(nil)

    var statistics: SessionStatistics { session.statistics.read() }

    /// Connects, and returns once the source serves: a page touched from then on is answered at once.
    init(to address: StreamAddress, regions handedOver: [DestinationRegion], _ settings: SessionSettings) throws(BenchmarkError) {
        var connection = DestinationConnector.Configuration()
        connection.bulkLanes = settings.bulkLanes
        connection.transport = settings.transport
        connection.push = settings.push
        connection.security = settings.security
        var configuration = DestinationSession.Configuration()
        configuration.window = settings.windowBytes.map { WindowPolicy(windowBytes: $0) } ?? .adaptive()
        configuration.replay = settings.replay
        configuration.creditBytes = settings.creditBytes
        configuration.push = settings.push
        configuration.polling = settings.mode.polling
        configuration.statisticsIntervalNanoseconds = settings.statisticsIntervalNanoseconds
        let notices = Mailbox<DestinationNotice>()
        self.notices = notices
        do throws(SessionError) {
            let regions = try DestinationRegions(handedOver)
            // Present already: this fills the session's own page tables, as every destination does before the switch.
            try regions.prefault(deadlineNanoseconds: .max)
            let connector = try DestinationConnector(to: address, configuration: connection)
            let opened = try connector.accept(regions)
            session = DestinationSession(opened, regions: regions, machineState: nil, configuration: configuration) { notices.post($0) }
        } catch {
            throw BenchmarkError(error.description)
        }
        while let notice = notices.next() {
            switch notice {
            case .guestStopped: return
            case .ended(let reason):
                session.join()
                throw BenchmarkError(reason?.description ?? "the session completed before its source served")
            case .committed, .allResident, .regionRemoved, .paused, .restored: continue
            }
        }
    }

    /// Waits for the last page.
    @discardableResult
    func complete() throws(BenchmarkError) -> SessionStatistics {
        let reason = waitForEnd()
        if let reason { throw BenchmarkError(reason.description) }
        return statistics
    }

    /// Ends the session as it stands: pages may be missing.
    @discardableResult
    func cancel() throws(BenchmarkError) -> SessionStatistics {
        session.end(.cancelled)
        let reason = waitForEnd()
        if let reason, reason != .cancelled { throw BenchmarkError(reason.description) }
        return statistics
    }

    /// Waits for a while.
    ///
    /// - Returns: whether the session is over.
    func hasEnded(withinNanoseconds timeoutNanoseconds: UInt64) -> Bool {
        waitForEnd(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + timeoutNanoseconds) != nil
    }

    private func waitForEnd() -> SessionError? { waitForEnd(deadlineNanoseconds: nil) ?? nil }

    /// - Returns: why the session ended; nil when it goes on.
    private func waitForEnd(deadlineNanoseconds: UInt64?) -> SessionError?? {
        if let known = ending.withLock({ $0 }) { return known }
        while let notice = notices.next(deadlineNanoseconds: deadlineNanoseconds) {
            guard case .ended(let reason) = notice else { continue }
            session.join()
            ending.withLock { $0 = .some(reason) }
            return .some(reason)
        }
        return nil
    }
}

extension SessionStatistics {
    /// From the moment the source began to serve to the last page.
    var transferSeconds: Double {
        guard let first = guestStoppedNanoseconds, let last = lastPageNanoseconds else { return .nan }
        return Double(last - first) / 1e9
    }
}
