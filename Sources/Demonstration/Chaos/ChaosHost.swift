import Glibc
import Handoff
import HostMemory
import NativeHandoff
import PageCore
import PageFerry
import Synchronization
import Userfault

/// A process's memory in the hands of a daemon that may die at any time: it is handed over again to whichever comes next.
///
/// Kept by whoever uses the memory: threads that wait for ever, after a round has failed, must not find it unmapped.
final class ChaosHost: Sendable {
    let memory: PatternedMemory
    private let mapping: MappedMemory
    private let file: MemoryFile?
    /// Kept for good: were the daemon's the last one, the memory would read as zeros when it dies.
    private let userfault: UserfaultDescriptor
    private let client: Mutex<HandoffClient>
    private let isOver = Atomic(false)
    private let reattachments = Atomic(0)
    private let keeper = Mutex<DedicatedThread?>(nil)

    /// Hands fresh memory over to the daemon that listens at `path`.
    init(kind: MemoryKind, lengthBytes: Int, path: String) throws(DemonstrationError) {
        do {
            var client = try Self.connect(path)
            switch kind {
            case .shared:
                let created = try MemoryFile.create(name: "pageferry-chaos", lengthBytes: lengthBytes)
                let mapped = try MappedMemory(of: created, lengthBytes: lengthBytes, access: .readWrite)
                userfault = try client.handOver(name: "memory", memory: mapped, file: created)
                mapping = consume mapped
                file = consume created
            case .anonymous:
                let mapped = try MappedMemory(anonymousBytes: lengthBytes)
                userfault = try client.handOver(name: "memory", anonymous: mapped)
                mapping = consume mapped
                file = nil
            }
            try client.ready()
            self.client = Mutex(client)
            // SAFETY: the mapping is kept by this value for as long as the memory is used.
            memory = unsafe PatternedMemory(address: mapping.address, pageCount: lengthBytes >> PageSize.fourKiB.shift)
        } catch {
            throw DemonstrationError("\(error)")
        }
        keeper.withLock { $0 = DedicatedThread(name: "keeper") { [self] in keep() } }
    }

    /// The daemon may be about to listen.
    private static func connect(_ path: String) throws(HandoffError) -> HandoffClient {
        let deadline = MonotonicClock.nowNanoseconds() + 20_000_000_000
        while true {
            do throws(HandoffError) {
                return try HandoffClient(path: path, timeoutNanoseconds: 60_000_000_000)
            } catch {
                guard case .nobodyListens = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = poll(nil, 0, 5)
            }
        }
    }

    /// How often another daemon has taken over.
    var takeovers: Int { reattachments.load(ordering: .relaxed) }

    /// Lets go of the keeper; the memory stays.
    func finish() {
        isOver.store(true, ordering: .relaxed)
        keeper.withLock { $0.take() }?.join()
    }

    /// Ends every wait: what is missing reads as zero from here on, and is counted wrong.
    func release() { try? userfault.unregister(address: mapping.address, lengthBytes: mapping.lengthBytes) }

    private func keep() {
        while !isOver.load(ordering: .relaxed) {
            client.withLock { client in
                guard (try? client.waitForEnd(timeoutMilliseconds: 20)) == true else { return }
                // Nobody listens until the next daemon has been started, or this one may be ended in the middle: again then.
                if (try? client.reattach()) != nil { reattachments.add(1, ordering: .relaxed) } else { _ = poll(nil, 0, 5) }
            }
        }
    }
}
