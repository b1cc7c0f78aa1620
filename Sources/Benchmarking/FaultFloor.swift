import Glibc
import HostMemory
import PageCore
import PageFerry
import Synchronization
import Userfault

/// The bare cost of a fault resolved by another thread: no daemon could be faster. One thread touches pages in random order;
/// another spins on the userfaultfd and continues each from the page cache.
enum FaultFloor {
    /// - Returns: each touch's nanoseconds, in order.
    static func run(touches: Int, pageCount: Int, seed: UInt64) throws(BenchmarkError) -> [UInt64] {
        do {
            let lengthBytes = pageCount << PageSize.fourKiB.shift
            let file = try MemoryFile.create(name: "pageferry-floor", lengthBytes: lengthBytes)
            let guest = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            let filled = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            try filled.populate()
            let userfault = try UserfaultDescriptor(required: [.missingSharedMemory, .minorSharedMemory])
            try userfault.register(address: guest.address, lengthBytes: lengthBytes, modes: [.missing, .minor])
            let resolver = Resolver(try userfault.duplicated())
            let thread = DedicatedThread(name: "floor") {
                DedicatedThread.preferCurrent()
                resolver.run()
            }
            defer {
                resolver.stop()
                thread.join()
            }
            return TouchSequence(pageCount: pageCount, seed: seed).time(touches, in: guest.address)
        } catch {
            throw BenchmarkError("\(error)")
        }
    }

    /// SAFETY: Sendable, because the descriptor is used by the one thread that runs, and the flag is atomic.
    private final class Resolver: @unchecked Sendable {
        private let userfault: UserfaultDescriptor
        private let isStopped = Atomic(false)

        init(_ userfault: consuming UserfaultDescriptor) { self.userfault = userfault }

        func stop() { isStopped.store(true, ordering: .relaxed) }

        func run() {
            var batch = UserfaultEventBatch()
            while !isStopped.load(ordering: .relaxed) {
                guard let count = try? userfault.readEvents(into: &batch), count > 0 else { continue }
                for index in 0..<count {
                    guard case .pageFault(let address, _) = batch[index] else { continue }
                    _ = userfault.continueRange(address: address, lengthBytes: 4096, pageSize: .fourKiB)
                }
            }
        }
    }
}

/// Every page once, in an order that a seed decides.
struct TouchSequence {
    private var pages: [Int]

    init(pageCount: Int, seed: UInt64) {
        var random = SeededRandom(seed: seed)
        pages = Array(0..<pageCount)
        pages.shuffle(using: &random)
    }

    /// Reads the first word of the first `count` pages.
    ///
    /// - Returns: the nanoseconds of each.
    func time(_ count: Int, in address: UInt) -> [UInt64] {
        var times: [UInt64] = []
        times.reserveCapacity(count)
        for page in pages.prefix(count) {
            let start = MonotonicClock.nowNanoseconds()
            Self.read(address + UInt(page << 12))
            times.append(MonotonicClock.nowNanoseconds() - start)
        }
        return times
    }

    private static func read(_ address: UInt) {
        guard let pointer = unsafe UnsafePointer<UInt64>(bitPattern: address) else { return }
        // SAFETY: the caller keeps the memory mapped. The sink keeps the compiler from dropping the read.
        sink.store(unsafe pointer.pointee, ordering: .relaxed)
    }
}

private let sink = Atomic<UInt64>(0)
