import PageCore
import Synchronization

/// One search for a lost source, on a thread of its own: its outcome is an order to the session, unless nobody wants it any more.
final class SourceSearch: Sendable {
    private let isWanted = Mutex(true)

    init(_ finder: SourceFinder, resident: [[UInt8]], orders: Mailbox<DestinationOrder>) {
        _ = DedicatedThread(name: "find-source") { [self] in
            do throws(SessionError) {
                let link = try finder.connect(resident: resident)
                let isTaken = isWanted.withLock { isWanted in
                    if isWanted { orders.post(.restored(link)) }
                    return isWanted
                }
                if !isTaken { link.close() }
            } catch {
                let reason = error
                isWanted.withLock { if $0 { orders.post(.notFound(reason)) } }
            }
        }
    }

    /// Nobody waits for the outcome any more: what it finds is closed.
    func abandon() { isWanted.withLock { $0 = false } }
}

/// When to look for a source again: soon at first, then ever more seldom.
struct SearchSchedule {
    private static let firstNanoseconds: UInt64 = 20_000_000
    private static let mostNanoseconds: UInt64 = 2_000_000_000

    private var pauseNanoseconds = SearchSchedule.firstNanoseconds
    private(set) var nextNanoseconds: UInt64

    init(nowNanoseconds: UInt64) { nextNanoseconds = nowNanoseconds }

    /// A search has ended in vain.
    mutating func failed(nowNanoseconds: UInt64) {
        nextNanoseconds = nowNanoseconds + pauseNanoseconds
        pauseNanoseconds = min(2 * pauseNanoseconds, Self.mostNanoseconds)
    }

    /// Somebody knows better.
    mutating func hurry(nowNanoseconds: UInt64) {
        nextNanoseconds = nowNanoseconds
        pauseNanoseconds = Self.firstNanoseconds
    }
}
