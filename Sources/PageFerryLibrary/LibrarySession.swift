import CPageFerry
import PageCore
import PageEngine
import PageFerry
import Synchronization

/// Something that happened, before it is a C structure.
struct LibraryEvent: Sendable {
    var kind: pageferry_event_kind
    var status: Int32 = 0
    var session: UInt32 = 0
    var text = ""
}

/// What is behind a handle.
protocol LibrarySession: AnyObject, Sendable {
    var events: Mailbox<LibraryEvent> { get }
    var statistics: pageferry_statistics { get }
    /// Ends what runs; `ENDED` follows.
    func end()
    /// Ends what runs and waits for it. Call once.
    func close()
}

/// The open handles of this process.
///
/// Numbers, never given twice: a caller who closes one twice, or makes one up, gets an error where a pointer would have been
/// followed.
enum Handles {
    private struct Table {
        var sessions: [Int64: any LibrarySession] = [:]
        var last: Int64 = 0
    }

    private static let table = Mutex(Table())

    static func add(_ session: any LibrarySession) -> Int64 {
        table.withLock { table in
            table.last += 1
            table.sessions[table.last] = session
            return table.last
        }
    }

    static func find(_ handle: Int64) throws(LibraryError) -> any LibrarySession {
        guard let session = table.withLock({ $0.sessions[handle] }) else { throw notOpen(handle) }
        return session
    }

    static func source(_ handle: Int64) throws(LibraryError) -> LibrarySource {
        guard let source = try find(handle) as? LibrarySource else {
            throw LibraryError(PAGEFERRY_ERROR_HANDLE, "\(handle) is a destination, not a source")
        }
        return source
    }

    static func destination(_ handle: Int64) throws(LibraryError) -> LibraryDestination {
        guard let destination = try find(handle) as? LibraryDestination else {
            throw LibraryError(PAGEFERRY_ERROR_HANDLE, "\(handle) is a source, not a destination")
        }
        return destination
    }

    static func remove(_ handle: Int64) throws(LibraryError) -> any LibrarySession {
        guard let session = table.withLock({ $0.sessions.removeValue(forKey: handle) }) else { throw notOpen(handle) }
        return session
    }

    private static func notOpen(_ handle: Int64) -> LibraryError {
        LibraryError(PAGEFERRY_ERROR_HANDLE, "\(handle) is no open handle; it was closed, or never opened")
    }
}

extension pageferry_statistics {
    /// One more session's figures.
    mutating func add(_ session: SessionStatistics) {
        sessions += [.completed, .failed, .cancelled].contains(session.phase) ? 0 : 1
        total_pages += UInt64(session.totalPages)
        missing_pages += UInt64(session.missingPages)
        demanded_pages += UInt64(session.counts.demand)
        window_pages += UInt64(session.counts.window)
        pushed_pages += UInt64(session.counts.push)
        zero_pages += UInt64(session.counts.zero)
        faults += UInt64(session.faults)
        waiting_faults += UInt64(session.waitingFaults)
        pauses += UInt64(session.pauseCount)
        fault_p50_nanoseconds = max(fault_p50_nanoseconds, session.latency.p50Nanoseconds)
        fault_p99_nanoseconds = max(fault_p99_nanoseconds, session.latency.p99Nanoseconds)
        fault_max_nanoseconds = max(fault_max_nanoseconds, session.latency.maxNanoseconds)
    }
}
