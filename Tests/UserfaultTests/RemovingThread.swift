import CShims
import Glibc
import Synchronization

/// A thread that gives pages up by MADV_DONTNEED, as a guest's balloon does.
final class RemovingThread: Sendable {
    private let address: UInt
    private let lengthBytes: Int
    private let result = Atomic<Int>(.min)
    private let thread = Atomic<UInt>(0)

    init(at address: UInt, lengthBytes: Int) {
        self.address = address
        self.lengthBytes = lengthBytes
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { box in
                let remover = Unmanaged<RemovingThread>.fromOpaque(box!).takeRetainedValue()
                let answer = madvise(
                    UnsafeMutableRawPointer(bitPattern: remover.address), remover.lengthBytes, PAGEFERRY_MADVISE_DONTNEED)
                remover.result.store(Int(answer), ordering: .releasing)
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "a thread starts")
        self.thread.store(UInt(thread), ordering: .releasing)
    }

    /// Waits for its end, at most ten seconds; madvise's answer.
    func join() -> Int? {
        guard poll(until: { result.load(ordering: .acquiring) != .min }) else { return nil }
        pthread_join(pthread_t(thread.load(ordering: .acquiring)), nil)
        return result.load(ordering: .acquiring)
    }
}
