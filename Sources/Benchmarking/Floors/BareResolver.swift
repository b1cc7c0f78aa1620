import Glibc
import HostMemory
import PageCore
import PageFerry
import Synchronization
import Userfault

/// A fault handler over the same wire that does the least one can: requests of 16 bytes, answers of one page in the order of
/// the requests, received into mapping B and mapped with UFFDIO_CONTINUE. As many requests are in flight as threads wait.
final class BareResolver: Sendable {
    private static let mostPending = 256
    private static let requestBytes = PingPongFloor.requestBytes

    private let memory: TwiceMappedMemory
    private let source: MappedMemory
    private let pair: SocketPair
    private let mode: WaitMode
    private let isOver = Atomic(false)
    private let threads = Mutex<[DedicatedThread]>([])

    /// Starts its two threads.
    ///
    /// - Parameters:
    ///   - memory: armed.
    ///   - source: as long as the memory, its pages present.
    init(_ memory: TwiceMappedMemory, source: consuming MappedMemory, kind: SocketKind, mode: WaitMode) throws(BenchmarkError) {
        self.memory = memory
        self.source = source
        self.mode = mode
        pair = try SocketPair(kind)
        threads.withLock { threads in
            threads = [
                Placement.destination.run(mode) { DedicatedThread(name: "floor-resolve") { [self] in resolve() } },
                Placement.source.run(mode) { DedicatedThread(name: "floor-answer") { [self] in answer() } },
            ]
        }
    }

    /// Ends both threads. Faults that wait stay unanswered.
    func stop() {
        isOver.store(true, ordering: .relaxed)
        pair.shut()
        for thread in threads.withLock({ $0 }) { thread.join() }
    }

    private func resolve() {
        DedicatedThread.preferCurrent()
        var batch = UserfaultEventBatch()
        var pending = BoundedQueue<Int>(capacity: Self.mostPending)
        var receivedBytes = 0
        var requests = [UInt64](repeating: 0, count: 2 * UserfaultEventBatch.capacity)
        while !isOver.load(ordering: .relaxed) {
            if mode == .event { waitForWork() }
            let count = (try? memory.userfault.readEvents(into: &batch)) ?? 0
            for index in 0..<count {
                guard case .pageFault(let address, _) = batch[index] else { continue }
                let page = Int(address - memory.guest.address) >> PageSize.fourKiB.shift
                requests[2 * index] = UInt64(page)
                _ = pending.append(page)
            }
            // SAFETY: the array holds two words a request, and outlives the call.
            if count > 0, unsafe !BareTransfer.send(pair.near, requests, count: count * Self.requestBytes) { return }
            while let page = pending.first, receive(page, &receivedBytes) {
                pending.popFirst()
                _ = memory.userfault.continueRange(
                    address: memory.guest.address + UInt(page << PageSize.fourKiB.shift), lengthBytes: PageSize.fourKiB.bytes,
                    pageSize: .fourKiB)
            }
        }
    }

    private func waitForWork() {
        var entries = [
            pollfd(fd: memory.userfault.rawValue, events: Int16(POLLIN), revents: 0),
            pollfd(fd: pair.near, events: Int16(POLLIN), revents: 0),
        ]
        // SAFETY: two local entries, for the length of the call.
        _ = unsafe poll(&entries, 2, 20)
    }

    /// Takes what has come of the page at the head.
    ///
    /// - Returns: whether it is complete; nothing is received of it then.
    private func receive(_ page: PageIndex, _ receivedBytes: inout Int) -> Bool {
        let place = (page << PageSize.fourKiB.shift) + receivedBytes
        // SAFETY: the page lies in mapping B, and no more than the rest of it is received.
        let count = unsafe recv(
            pair.near, memory.second.pointer + place, PageSize.fourKiB.bytes - receivedBytes, Int32(MSG_DONTWAIT))
        if count > 0 { receivedBytes += count }
        guard receivedBytes == PageSize.fourKiB.bytes else { return false }
        receivedBytes = 0
        return true
    }

    private func answer() {
        DedicatedThread.preferCurrent()
        var requests = [UInt64](repeating: 0, count: 2 * Self.mostPending)
        var vectors = unsafe [iovec](repeating: iovec(), count: Self.mostPending)
        while !isOver.load(ordering: .relaxed) {
            let flags = mode == .busy ? Int32(MSG_DONTWAIT) : 0
            // SAFETY: both arrays are passed with their sizes; requests name pages of a mapping as long as the memory.
            let bytes = unsafe recv(pair.far, &requests, requests.count * 8, flags)
            if bytes == 0 { return }
            guard bytes > 0 else { continue }
            // The kernel hands over whole requests: they are sent in one piece, and fewer than a socket buffer of them wait.
            let count = bytes / Self.requestBytes
            for index in 0..<count {
                let place = Int(requests[2 * index]) << PageSize.fourKiB.shift
                unsafe vectors[index] = iovec(iov_base: source.pointer + place, iov_len: PageSize.fourKiB.bytes)
            }
            guard unsafe writev(pair.far, vectors, Int32(count)) == count << PageSize.fourKiB.shift else { return }
        }
    }
}
