import Glibc
import Synchronization

/// A thread that touches one byte and keeps what it saw: the stand-in for a vCPU.
final class FaultingThread: Sendable {
    private let address: UInt
    private let write: UInt8?
    private let result = Atomic<Int>(-1)
    private let thread = Atomic<UInt>(0)

    /// Starts at once; reads the byte at `address`, or writes `write` there.
    init(at address: UInt, write: UInt8? = nil) {
        self.address = address
        self.write = write
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { box in
                Unmanaged<FaultingThread>.fromOpaque(box!).takeRetainedValue().touch()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "a thread starts")
        self.thread.store(UInt(thread), ordering: .releasing)
    }

    /// The byte it read, or wrote; nil while it waits.
    var seen: UInt8? {
        let value = result.load(ordering: .acquiring)
        return value < 0 ? nil : UInt8(value)
    }

    /// Waits for the thread's end, at most ten seconds, and says what it saw.
    func join() -> UInt8? {
        _ = poll(until: { self.seen != nil })
        if seen != nil { pthread_join(pthread_t(thread.load(ordering: .acquiring)), nil) }
        return seen
    }

    private func touch() {
        let pointer = UnsafeMutablePointer<UInt8>(bitPattern: address)!
        if let write { pointer.pointee = write }
        result.store(Int(pointer.pointee), ordering: .releasing)
    }
}

/// A thread that reads the first byte of one page after the other.
final class SweepingThread: Sendable {
    private let ended = Atomic<Bool>(false)
    private let thread = Atomic<UInt>(0)
    private let address: UInt
    private let pages: Int
    private let strideBytes: Int

    init(from address: UInt, pages: Int, strideBytes: Int) {
        (self.address, self.pages, self.strideBytes) = (address, pages, strideBytes)
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { box in
                Unmanaged<SweepingThread>.fromOpaque(box!).takeRetainedValue().sweep()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "a thread starts")
        self.thread.store(UInt(thread), ordering: .releasing)
    }

    var hasEnded: Bool { ended.load(ordering: .acquiring) }

    func join() { pthread_join(pthread_t(thread.load(ordering: .acquiring)), nil) }

    private func sweep() {
        let seen = Atomic<Int>(0)
        for page in 0..<pages {
            let pointer = UnsafePointer<UInt8>(bitPattern: address + UInt(page * strideBytes))!
            seen.add(Int(pointer.pointee), ordering: .relaxed)
        }
        ended.store(true, ordering: .releasing)
    }
}

/// Polls `condition` for ten seconds at most.
func poll(until condition: () -> Bool) -> Bool {
    for _ in 0..<10_000 {
        if condition() { return true }
        _ = poll(nil, 0, 1)
    }
    return condition()
}
