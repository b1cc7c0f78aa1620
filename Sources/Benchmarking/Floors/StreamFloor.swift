import Glibc
import HostMemory
import PageCore
import PageFerry
import Synchronization
import Userfault

/// The least that moving a region takes: each of so many streams has a thread that sends from the source's memory and one that
/// receives extents into mapping B and maps them with UFFDIO_CONTINUE; no headers, no bookkeeping.
final class StreamFloor: Sendable {
    static let extentBytes = 128 << 10

    struct Result {
        var seconds: Double
        /// Of all its threads.
        var processorSeconds: Double
    }

    private let source: MappedMemory
    private let hasFailed = Atomic(false)

    /// - Parameter source: its pages are present.
    init(source: consuming MappedMemory) { self.source = source }

    /// - Parameter memory: as long as the source, and armed; left with every page mapped.
    func measure(_ kind: SocketKind, into memory: TwiceMappedMemory, streams: Int) throws(BenchmarkError) -> Result {
        precondition(memory.guest.lengthBytes == source.lengthBytes, "both sides are of one size")
        let partBytes = source.lengthBytes / streams
        precondition(partBytes % Self.extentBytes == 0, "every stream carries whole extents")
        var pairs: [Socket] = []
        for _ in 0..<streams { pairs.append(Socket(try SocketPair(kind))) }
        let start = MonotonicClock.nowNanoseconds()
        let processorStart = ProcessorTime.nanoseconds(of: getpid())
        var threads: [DedicatedThread] = []
        for (number, socket) in pairs.enumerated() {
            let bytes = number * partBytes..<(number + 1) * partBytes
            threads.append(DedicatedThread(name: "floor-send") { [self] in send(bytes, socket) })
            threads.append(DedicatedThread(name: "floor-receive") { [self] in receive(bytes, socket, memory) })
        }
        for thread in threads { thread.join() }
        guard !hasFailed.load(ordering: .relaxed) else { throw BenchmarkError("the bare stream broke: error \(errno)") }
        return Result(
            seconds: Double(MonotonicClock.nowNanoseconds() - start) / 1e9,
            processorSeconds: Double(ProcessorTime.nanoseconds(of: getpid()) - processorStart) / 1e9)
    }

    /// Shared by the two threads of a stream.
    private final class Socket: Sendable {
        let pair: SocketPair
        init(_ pair: consuming SocketPair) { self.pair = pair }
    }

    private func send(_ bytes: Range<Int>, _ socket: Socket) {
        for offset in stride(from: bytes.lowerBound, to: bytes.upperBound, by: Self.extentBytes) {
            // SAFETY: whole extents inside the mapping, which this object owns.
            guard unsafe BareTransfer.send(socket.pair.near, source.pointer + offset, count: Self.extentBytes) else { return fail(socket) }
        }
    }

    private func receive(_ bytes: Range<Int>, _ socket: Socket, _ memory: TwiceMappedMemory) {
        for offset in stride(from: bytes.lowerBound, to: bytes.upperBound, by: Self.extentBytes) {
            // SAFETY: as for `send`, of mapping B.
            let isHere = unsafe BareTransfer.receive(
                socket.pair.far, memory.second.pointer + offset, count: Self.extentBytes, mode: .event)
            guard isHere else { return fail(socket) }
            let outcome = memory.userfault.continueRange(
                address: memory.guest.address + UInt(offset), lengthBytes: Self.extentBytes, pageSize: .fourKiB)
            guard outcome == .installed else { return fail(socket) }
        }
    }

    private func fail(_ socket: Socket) {
        hasFailed.store(true, ordering: .relaxed)
        socket.pair.shut()
    }
}
