import Glibc
import Synchronization

/// The threads of the guest and what they count.
final class Workload: Sendable {
    private static let tickNanoseconds = 10_000_000
    /// How much the tmpfs file holds that is summed again and again.
    private static let summedBytes = 8 << 20

    private let port: Int32
    private let diskPath: String
    private let sumPath: String
    private let workers: Int
    private let churnedBytes: Int
    private let memory: VersionedMemory
    private let isStopping = Atomic(false)
    private let pages = Atomic(0)
    private let badPages = Atomic(0)
    private let diskReads = Atomic(0)
    private let badReads = Atomic(0)
    private let sums = Atomic(0)
    private let badSums = Atomic(0)

    init(port: String, diskPath: String, sumPath: String, memoryBytes: Int, workers: Int, churnedBytes: Int) {
        // SAFETY: the path is terminated and lives for the call.
        self.port = unsafe open(port, O_RDWR | O_NOCTTY)
        self.diskPath = diskPath
        self.sumPath = sumPath
        self.workers = workers
        self.churnedBytes = churnedBytes
        memory = VersionedMemory(byteCount: memoryBytes)
    }

    func run() {
        guard port >= 0 else { exit(1) }
        writeSummed()
        write("READY\n")
        var threads: [pthread_t] = []
        for worker in 0..<workers { threads.append(start { self.work(worker) }) }
        threads.append(start { self.readDisk() })
        threads.append(start { self.sum() })
        if churnedBytes > 0 { threads.append(start { self.churn() }) }
        _ = start { self.awaitStop() }
        let ticks = tick()
        for thread in threads { pthread_join(thread, nil) }
        write(
            "DONE ticks=\(ticks) pages=\(value(pages)) bad=\(value(badPages)) disk_reads=\(value(diskReads)) bad_reads=\(value(badReads)) sums=\(value(sums)) bad_sums=\(value(badSums))\n"
        )
        _ = tcdrain(port)
    }

    private func value(_ counter: borrowing Atomic<Int>) -> Int { counter.load(ordering: .relaxed) }

    private var isRunning: Bool { !isStopping.load(ordering: .relaxed) }

    /// One write a line, so that lines of several threads never mix.
    private func write(_ line: String) {
        let bytes = Array(line.utf8)
        // SAFETY: the array outlives the call.
        _ = unsafe Glibc.write(port, bytes, bytes.count)
    }

    // MARK: Threads

    private func tick() -> Int {
        var ticks = 0
        while isRunning {
            var pause = timespec(tv_sec: 0, tv_nsec: Self.tickNanoseconds)
            // SAFETY: local structures, filled or read during the call.
            _ = unsafe nanosleep(&pause, nil)
            var now = timespec()
            unsafe clock_gettime(CLOCK_MONOTONIC, &now)
            ticks += 1
            write("T \(ticks) \(now.tv_sec * 1_000_000_000 + now.tv_nsec) \(value(pages))\n")
        }
        return ticks
    }

    /// Visits the pages of its share: runs of neighbours and single pages, half and half.
    private func work(_ worker: Int) {
        let share = memory.pageCount / workers
        let first = worker * share
        var random = Random(seed: UInt64(worker + 1))
        while isRunning {
            let start = random.below(share)
            let length = random.below(2) == 0 ? 1 : 1 + random.below(128)
            for page in start..<min(share, start + length) {
                if !memory.visit(first + page) {
                    badPages.wrappingAdd(1, ordering: .relaxed)
                    write("BAD page=\(first + page)\n")
                }
                pages.wrappingAdd(1, ordering: .relaxed)
            }
        }
    }

    /// Takes memory the kernel has free, writes it, finds it so a little later, and gives it back: what a balloon gave up and got
    /// back is in use again this way.
    private func churn() {
        while isRunning {
            let taken = VersionedMemory(byteCount: churnedBytes)
            var pause = timespec(tv_sec: 0, tv_nsec: Self.tickNanoseconds)
            // SAFETY: a local structure, read during the call.
            _ = unsafe nanosleep(&pause, nil)
            for page in 0..<taken.pageCount where !taken.visit(page) {
                badPages.wrappingAdd(1, ordering: .relaxed)
                write("BAD churned page=\(page)\n")
            }
            taken.unmap()
        }
    }

    private func readDisk() {
        // SAFETY: the path is terminated; the buffer is aligned, as O_DIRECT wants it, and lives for ever.
        let disk = unsafe open(diskPath, O_RDONLY | 0o40000)
        let size = lseek(disk, 0, Int32(SEEK_END))
        guard disk >= 0, size >= KnownDisk.blockBytes else {
            badReads.wrappingAdd(1, ordering: .relaxed)
            return write("BAD disk=\(errno)\n")
        }
        let buffer = unsafe UnsafeMutableRawPointer.allocate(
            byteCount: KnownDisk.blockBytes, alignment: KnownDisk.blockBytes
        ).bindMemory(to: UInt64.self, capacity: KnownDisk.blockBytes / 8)
        var random = Random(seed: 77)
        while isRunning {
            let block = random.below(Int(size) / KnownDisk.blockBytes)
            if unsafe !KnownDisk.read(disk, block: block, buffer) {
                badReads.wrappingAdd(1, ordering: .relaxed)
                write("BAD block=\(block)\n")
            }
            diskReads.wrappingAdd(1, ordering: .relaxed)
            var pause = timespec(tv_sec: 0, tv_nsec: 5_000_000)
            _ = unsafe nanosleep(&pause, nil)
        }
    }

    private func writeSummed() {
        let bytes = (0..<(64 << 10)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
        // SAFETY: path and array outlive the calls.
        let file = unsafe open(sumPath, O_RDWR | O_CREAT | O_TRUNC, 0o600)
        for _ in 0..<(Self.summedBytes / bytes.count) { _ = unsafe Glibc.write(file, bytes, bytes.count) }
        close(file)
    }

    private func sum() {
        // SAFETY: the path is terminated; the buffer outlives every read.
        let file = unsafe open(sumPath, O_RDONLY)
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        var expected: UInt64?
        while isRunning {
            lseek(file, 0, Int32(SEEK_SET))
            var total: UInt64 = 0
            var position: UInt64 = 0
            while isRunning {
                let count = unsafe read(file, &buffer, buffer.count)
                if count <= 0 { break }
                for byte in buffer[..<count] {
                    position &+= 1
                    total = total &* 31 &+ UInt64(byte) &+ position
                }
            }
            guard isRunning else { break }
            if let expected, expected != total {
                badSums.wrappingAdd(1, ordering: .relaxed)
                write("BAD sum=\(total)\n")
            }
            expected = expected ?? total
            sums.wrappingAdd(1, ordering: .relaxed)
            var pause = timespec(tv_sec: 0, tv_nsec: 50_000_000)
            _ = unsafe nanosleep(&pause, nil)
        }
    }

    private func awaitStop() {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        // SAFETY: one local byte, filled during the call.
        while unsafe read(port, &byte, 1) == 1 {
            if byte == UInt8(ascii: "\n") || byte == UInt8(ascii: "\r") {
                if line == Array("STOP".utf8) { break }
                line.removeAll()
            } else if line.count < 16 {
                line.append(byte)
            }
        }
        isStopping.store(true, ordering: .relaxed)
    }

    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    private func start(_ body: @escaping @Sendable () -> Void) -> pthread_t {
        var thread = pthread_t()
        // SAFETY: the retained box is taken back exactly once, by the thread created with it.
        let box = unsafe Unmanaged.passRetained(Body(body)).toOpaque()
        unsafe pthread_create(
            &thread, nil,
            { box in
                unsafe Unmanaged<Body>.fromOpaque(box!).takeRetainedValue().run()
                return nil
            }, box)
        return thread
    }
}

/// SplitMix64: the guest's choices are the same in every run.
struct Random {
    private var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func below(_ bound: Int) -> Int {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int(UInt64(truncatingIfNeeded: mixed ^ (mixed >> 31)) % UInt64(bound))
    }
}
