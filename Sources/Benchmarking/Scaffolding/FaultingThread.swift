import Demonstration
import PageCore
import PageFerry
import Synchronization

/// A thread of the guest: touches pages one after the other, and times each touch.
final class FaultingThread: Sendable {
    /// What a thread saw.
    struct Result: Sendable {
        var latencies = LatencyRecorder()
        /// Touches that took longer than a page that is here ever takes.
        var waits = 0
        /// Pages whose first word was not the source's.
        var wrongPages = 0
        var startNanoseconds: UInt64 = 0
        var endNanoseconds: UInt64 = 0
    }

    /// A touch of a page that is here takes tens of nanoseconds; of one that is not, microseconds at best.
    private static let waitNanoseconds: UInt64 = 2_000

    private let thread = Mutex<DedicatedThread?>(nil)
    private let result = Mutex(Result())

    /// - Parameters:
    ///   - order: the pages to touch; each of them is timed when it waited.
    ///   - firstPage: where the memory begins in the source's, for comparing.
    ///   - everyNanoseconds: the time from one touch to the next where the touch itself is shorter; 0 touches at once.
    ///   - isPlaced: whether it keeps to the guest's processor.
    ///   - mode: how those wait who bring its pages.
    ///   - isOver: asked before each touch of a paced thread.
    init(
        _ memory: PatternedMemory, order: [PageIndex], firstPage: PageIndex = 0, everyNanoseconds: UInt64 = 0, isPlaced: Bool = false,
        mode: WaitMode = .adaptive, until isOver: @escaping @Sendable () -> Bool = { false }
    ) {
        thread.withLock { thread in
            thread = DedicatedThread(name: "guest") { [self] in
                let touch = { Self.touch(memory, order, firstPage, everyNanoseconds, isOver) }
                let seen = isPlaced ? Placement.guest.run(mode, touch) : touch()
                result.withLock { $0 = seen }
            }
        }
    }

    /// Waits until every page has been touched.
    func join() -> Result {
        thread.withLock { $0.take() }?.join()
        return result.withLock { $0 }
    }

    private static func touch(
        _ memory: PatternedMemory, _ order: [PageIndex], _ firstPage: PageIndex, _ everyNanoseconds: UInt64, _ isOver: () -> Bool
    ) -> Result {
        var result = Result()
        result.startNanoseconds = MonotonicClock.nowNanoseconds()
        var due = result.startNanoseconds
        for page in order {
            var start = MonotonicClock.nowNanoseconds()
            if everyNanoseconds > 0 {
                // A thread that computes between two touches: it does not sleep, so its wake-up is in no figure.
                while start < due { start = MonotonicClock.nowNanoseconds() }
                due = max(due, start) + everyNanoseconds
                if isOver() { break }
            }
            let word = memory.touch(page)
            let elapsed = MonotonicClock.nowNanoseconds() - start
            if elapsed > waitNanoseconds {
                result.latencies.record(elapsed)
                result.waits += 1
            }
            if !PatternedMemory.isFirstWord(word, of: firstPage + page) { result.wrongPages += 1 }
        }
        result.endNanoseconds = MonotonicClock.nowNanoseconds()
        return result
    }
}

extension FaultingThread.Result {
    /// A benchmark over wrong memory would say nothing.
    func check() throws(BenchmarkError) {
        if wrongPages > 0 { throw BenchmarkError("\(wrongPages) touched pages did not hold what the source has") }
    }
}

/// Orders in which pages are touched.
enum TouchOrder {
    /// Every `stride`th page, each once, in random order: never two in one window, and no neighbour to learn from.
    static func random(pageCount: Int, count: Int, stride: Int = 1, seed: UInt64) -> [PageIndex] {
        var random = SeededRandom(seed: seed)
        var blocks = Array(0..<(pageCount / stride))
        precondition(count <= blocks.count, "each page is touched once")
        // The first `count` steps of a Fisher-Yates shuffle.
        for index in 0..<count { blocks.swapAt(index, index + random.next(below: blocks.count - index)) }
        return blocks[..<count].map { $0 * stride + random.next(below: stride) }
    }
}
