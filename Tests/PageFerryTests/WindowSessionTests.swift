import PageCore
import PageEngine
import PageWire
import Synchronization
import TestSupport
import Testing

@testable import PageFerry

/// Windows, traces and replays in whole sessions: faults from the kernel, nothing pushed.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct WindowSessionTests {
    /// Reads pages one after the other; ends the session, and tells what it saw.
    private func read(
        _ order: [Int], _ kind: GuestKind, _ link: Link, pages: Int, after isReady: (SessionStatistics) -> Bool = { _ in true },
        configure: (inout DestinationSession.Configuration) -> Void
    ) throws -> (statistics: SessionStatistics, trace: [UInt8]?) {
        let source = try LocalSource(try makeImage(pages: pages), name: "windows", link: link)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: source.address, link: link) { configuration in
            configuration.creditBytes = 0
            configure(&configuration)
        }
        #expect(poll { isReady(destination.session.statistics.read()) })
        let wrong = guest.startReader(order)
        let count = wrong.join()
        destination.session.end(.cancelled)
        _ = try destination.end()
        guest.release()
        #expect(count == 0, "every page read holds what the source has")
        return (destination.session.statistics.read(), destination.session.trace)
    }

    @Test(arguments: Link.all, [GuestKind.shared, .anonymous])
    func aThreadThatReadsOnSeldomWaits(_ link: Link, _ kind: GuestKind) throws {
        let pages = 2_048
        for order in [Array(0..<pages), (0..<pages).reversed(), Array(stride(from: 3, to: pages, by: 5))] {
            let (statistics, _) = try read(order, kind, link, pages: pages) { _ in }
            let counts = statistics.counts
            #expect(counts.push == 0, "\(counts)")
            #expect(counts.window > counts.demand, "\(counts)")
            // However late its windows come, a thread that goes on page by page waits for whole frames of them. One with
            // a stride gets frames of a page: on a slow link it may wait for each, so how often is the simulator's to say.
            if order.count == pages {
                #expect(statistics.networkFaults < order.count / 4, "\(statistics.networkFaults) of \(order.count)")
            }
        }
    }

    @Test(arguments: Link.all) func aTraceTellsEveryPageInOrderAndItsReplaySparesTheFaults(_ link: Link) throws {
        let pages = 4_096
        var random = SeededRandom(seed: 11)
        let order = Array((0..<pages).shuffled(using: &random)[..<1_000])
        let first = try read(order, .shared, link, pages: pages) { configuration in
            configuration.window = WindowPolicy(windowBytes: 4096)
            configuration.recordsTrace = true
        }
        let trace = try PageTrace(decoding: try #require(first.trace))
        let expected = order.filter { !Content.isZero($0) }
        let recorded = trace.runs.flatMap { Array($0) }
        // Over RDMA a page of zeros may be read before the source has told of it.
        #expect(recorded.filter { !Content.isZero($0) } == expected)
        // There a page that was zeros in the first run is no part of the trace, and may be read again until the source has told of it.
        let zeros = (0..<pages).count { Content.isZero($0) }
        let isHere: @Sendable (SessionStatistics) -> Bool = { statistics in
            let counts = statistics.counts
            return link == .unix ? counts.window >= recorded.count : counts.window + counts.zero >= expected.count + zeros
        }
        let second = try read(order, .shared, link, pages: pages, after: isHere) { $0.replay = trace }
        #expect(second.statistics.counts.demand == 0, "\(second.statistics.counts)")
        #expect(second.trace == nil)
    }
}

extension Guest {
    /// A thread that compares these pages, in this order.
    func startReader(_ order: [Int]) -> SequentialReader { SequentialReader(self, order) }
}

final class SequentialReader: Sendable {
    private let wrong: Mutex<Int> = Mutex(0)
    private let thread: Mutex<DedicatedThread?> = Mutex(nil)

    init(_ guest: Guest, _ order: [Int]) {
        thread.withLock { thread in
            thread = DedicatedThread(name: "reader") { [self] in
                let count = order.count { !guest.words.isRight($0) }
                wrong.withLock { $0 = count }
            }
        }
    }

    /// - Returns: pages that did not hold what they must.
    func join() -> Int {
        thread.withLock { $0.take() }?.join()
        return wrong.withLock { $0 }
    }
}
