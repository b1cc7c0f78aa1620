import PageCore
import PageEngine
import PageFerry
import StreamTransport

/// The settings of a session that is measured.
struct SessionSettings: Sendable {
    var mode = WaitMode.busy
    var windowBytes = WindowPolicy().windowBytes
    /// Bytes of push in flight; 0 for no push.
    var creditBytes = DestinationSession.Configuration().creditBytes
    var bulkLanes = 2
    var statisticsIntervalNanoseconds: UInt64 = 50_000_000
}

/// A destination session in this process over memory of its own, from the handshake until it is joined.
final class MeasuredSession: Sendable {
    private let session: DestinationSession
    private let notices: Mailbox<DestinationNotice>

    var statistics: SessionStatistics { session.statistics.read() }

    /// Connects, and returns once the source serves: a page touched from then on is answered at once.
    init(to address: StreamAddress, regions handedOver: [DestinationRegion], _ settings: SessionSettings) throws(BenchmarkError) {
        var connection = DestinationConnector.Configuration()
        connection.bulkLanes = settings.bulkLanes
        var configuration = DestinationSession.Configuration()
        configuration.window = WindowPolicy(windowBytes: settings.windowBytes)
        configuration.creditBytes = settings.creditBytes
        configuration.spinNanoseconds = settings.mode.spinNanoseconds
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
            case .committed, .allResident: continue
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

    private func waitForEnd() -> SessionError? {
        while let notice = notices.next() {
            guard case .ended(let reason) = notice else { continue }
            session.join()
            return reason
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
