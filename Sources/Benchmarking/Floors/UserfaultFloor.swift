import PageCore
import PageFerry
import Synchronization
import Userfault

/// The least a fault costs whose page is already in memory: the event is read and answered with UFFDIO_CONTINUE by a thread
/// that does nothing else.
enum UserfaultFloor {
    /// Touches `order` from one thread while another resolves.
    ///
    /// - Parameter memory: is left with these pages mapped.
    static func measure(
        _ memory: TwiceMappedMemory, order: [PageIndex], mode: WaitMode
    ) throws(BenchmarkError) -> LatencyRecorder {
        let handler = Placement.destination.run(mode) { FloorHandler(memory, mode) }
        let result = FaultingThread(memory.pages, order: order, isPlaced: true, mode: mode).join()
        handler.stop()
        guard result.waits > order.count / 2 else { throw BenchmarkError("the pages of a floor were mapped already") }
        return result.latencies
    }
}

/// A thread that answers every fault at once.
private final class FloorHandler: Sendable {
    private let isOver = Atomic(false)
    private let thread = Mutex<DedicatedThread?>(nil)

    init(_ memory: TwiceMappedMemory, _ mode: WaitMode) {
        thread.withLock { thread in
            thread = DedicatedThread(name: "floor-resolve") { [self] in resolve(memory, mode) }
        }
    }

    func stop() {
        isOver.store(true, ordering: .relaxed)
        thread.withLock { $0.take() }?.join()
    }

    private func resolve(_ memory: TwiceMappedMemory, _ mode: WaitMode) {
        DedicatedThread.preferCurrent()
        var batch = UserfaultEventBatch()
        while !isOver.load(ordering: .relaxed) {
            guard mode == .busy || (try? memory.userfault.waitForEvents(timeoutMilliseconds: 20)) == true else { continue }
            guard let count = try? memory.userfault.readEvents(into: &batch), count > 0 else { continue }
            for index in 0..<count {
                guard case .pageFault(let address, _) = batch[index] else { continue }
                _ = memory.userfault.continueRange(
                    address: address & ~UInt(PageSize.fourKiB.bytes - 1), lengthBytes: PageSize.fourKiB.bytes, pageSize: .fourKiB)
            }
        }
    }
}
