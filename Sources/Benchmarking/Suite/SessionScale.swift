import Demonstration
import HostMemory
import PageCore
import PageFerry

/// The memories of several regions, which faulting threads divide among themselves.
struct PatternedMemoryParts {
    private let memories: [TwiceMappedMemory]

    /// - Parameter memories: of one size, in the order in which they lie in the source's.
    init(_ memories: [TwiceMappedMemory]) { self.memories = memories }

    /// The memory a thread touches, and where it begins in the source's.
    func part(_ thread: Int) -> (PatternedMemory, firstPage: PageIndex) {
        let number = thread % memories.count
        return (memories[number].pages, number * memories[number].guest.pageCount)
    }

    /// Which of the threads that touch one memory a thread is.
    func sharers(of thread: Int, threads: Int) -> (index: Int, count: Int) {
        let number = thread % memories.count
        return (thread / memories.count, (threads - number + memories.count - 1) / memories.count)
    }
}

/// Several sessions at once, from one source process, each with memory and a faulting thread of its own.
struct SessionScale {
    private static let faultsPerSession = 1_000

    private let source: SourceProcess
    private let memories: [TwiceMappedMemory]

    init(_ context: BenchmarkContext, sessionBytes: Int, mostSessions: Int) throws(BenchmarkError) {
        let image = try BenchmarkImage(lengthBytes: sessionBytes)
        source = try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive)
        var memories: [TwiceMappedMemory] = []
        for _ in 0..<mostSessions { memories.append(try TwiceMappedMemory(lengthBytes: sessionBytes)) }
        self.memories = memories
    }

    /// - Returns: the faults of all sessions together.
    func faultsPerSecond(_ count: Int, _ round: Int) throws(BenchmarkError) -> Double {
        var sessions: [MeasuredSession] = []
        for memory in memories[..<count] {
            try memory.rearm()
            sessions.append(
                try MeasuredSession(
                    to: source.address, regions: [try memory.handOver()],
                    SessionSettings(mode: .adaptive, windowBytes: PageSize.fourKiB.bytes, creditBytes: 0, bulkLanes: 1)))
        }
        let guests = memories[..<count].map { memory in
            FaultingThread(
                memory.pages,
                order: TouchOrder.random(pageCount: memory.guest.pageCount, count: Self.faultsPerSession, seed: UInt64(round)))
        }
        let results = guests.map { $0.join() }
        for session in sessions { try session.cancel() }
        for result in results { try result.check() }
        let start = results.map(\.startNanoseconds).min() ?? 0
        let end = results.map(\.endNanoseconds).max() ?? 0
        return Double(results.reduce(0) { $0 + $1.waits }) / (Double(end - start) / 1e9)
    }
}
