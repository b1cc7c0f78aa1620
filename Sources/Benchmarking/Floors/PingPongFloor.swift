import Glibc
import HostMemory
import PageCore
import PageFerry

/// The least a request and its page cost on the wire: 16 bytes one way, `answerBytes` the other, one at a time, with a thread
/// at either end.
enum PingPongFloor {
    static let requestBytes = 16

    static func measure(
        _ kind: SocketKind, _ mode: WaitMode, answerBytes: Int = 4096, count: Int
    ) throws(BenchmarkError) -> LatencyRecorder {
        let pair = try SocketPair(kind)
        let far = pair.far
        let memory = try orBenchmarkError { try MappedMemory(anonymousBytes: max(answerBytes, 4096) * 2) }
        try orBenchmarkError { try memory.populate() }
        let (near, answerAddress) = (pair.near, memory.address + UInt(max(answerBytes, 4096)))
        let server = Placement.source.run(mode) {
            DedicatedThread(name: "floor-answer") { serve(far, answerAddress, answerBytes, mode) }
        }
        let recorder = Placement.destination.run(mode) {
            var recorder = LatencyRecorder()
            for _ in 0..<count {
                let start = MonotonicClock.nowNanoseconds()
                // SAFETY: the first half of the mapping has room for request and answer.
                guard unsafe BareTransfer.send(near, memory.pointer, count: requestBytes),
                    unsafe BareTransfer.receive(near, memory.pointer, count: answerBytes, mode: mode)
                else { break }
                recorder.record(MonotonicClock.nowNanoseconds() - start)
            }
            return recorder
        }
        pair.shut()
        server.join()
        guard recorder.count == count else { throw BenchmarkError("the bare connection broke: error \(errno)") }
        return recorder
    }

    /// Answers requests until the connection ends.
    private static func serve(_ socket: Int32, _ answerAddress: UInt, _ answerBytes: Int, _ mode: WaitMode) {
        DedicatedThread.preferCurrent()
        // SAFETY: the mapping outlives this thread, which is joined; it alone uses the second half.
        guard let answer = unsafe UnsafeMutableRawPointer(bitPattern: answerAddress) else { return }
        unsafe withUnsafeTemporaryAllocation(byteCount: requestBytes, alignment: 16) { request in
            guard let request = request.baseAddress else { return }
            while unsafe BareTransfer.receive(socket, request, count: requestBytes, mode: mode) {
                guard unsafe BareTransfer.send(socket, answer, count: answerBytes) else { return }
            }
        }
    }
}
