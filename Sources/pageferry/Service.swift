import FirecrackerHandoff
import Glibc
import Handoff
import NativeHandoff
import PageFerry
import ServiceManager

/// This daemon as a service: what its manager is told, and what it keeps beyond the daemon's life.
struct Service: ~Copyable {
    private let manager: ServiceManager?
    private var stored: StoredDescriptors
    private var lastStatus = ""

    /// Call first, before other threads run.
    init() {
        manager = .fromEnvironment()
        stored = .fromEnvironment()
    }

    /// Start-up is over, as people read it too.
    mutating func ready(_ text: String) {
        Console.info(text)
        manager?.ready()
        say(text)
    }

    /// How far a session is.
    mutating func progress(_ text: String) {
        Console.progress(text)
        say(text)
    }

    private mutating func say(_ text: String) {
        guard text != lastStatus else { return }
        lastStatus = text
        manager?.status(text)
    }

    borrowing func stopping() { manager?.stopping() }

    // MARK: Handed-over memory

    /// Has the memory's descriptors kept, so that it can be served by the next daemon whatever its VMM does.
    ///
    /// - Returns: what the next daemon must know of them; nil where nobody keeps them.
    borrowing func keep(_ regions: borrowing HandedOverRegions) throws(CommandFailure) -> [KeptRegion]? {
        guard let manager else { return nil }
        let kept = try attempt { () throws(HandoffError) in
            try KeptMemory.keep(regions) { manager.store($0, name: $1) }
        }
        return manager.synchronize() ? kept : nil
    }

    /// Has the connection kept too, once the VMM needs no answer any more. Its end would make the VMM hand everything over again.
    borrowing func keepClient(_ memory: borrowing AwaitedMemory) {
        guard let descriptor = memory.clientDescriptor else { return }
        manager?.store(descriptor, name: KeptMemory.connectionName)
        manager?.synchronize()
    }

    /// What a daemon before this one had kept; nil when it was nothing, or not all of it: the VMM then notices that its daemon has
    /// gone, and hands the memory over again.
    mutating func keptMemory(_ left: DestinationState?, _ form: HandoffArgument.Form) -> AwaitedMemory? {
        guard let kept = left?.kept, let descriptor = stored.take(KeptMemory.connectionName) else {
            releaseStored()
            return nil
        }
        do throws(HandoffError) {
            let client: AwaitedMemory.Client =
                switch form {
                case .native: .native(try HandoffConnection(kept: descriptor, version: left?.handoffVersion ?? 1))
                case .firecracker: .firecracker(FirecrackerConnection(kept: descriptor))
                }
            return AwaitedMemory(client, try HandedOverRegions(kept: kept) { stored.take($0) })
        } catch {
            Console.info("the memory in the service manager's store is not used: \(error)")
            releaseStored()
            for region in kept.indices { forget(region) }
            manager?.forget(name: KeptMemory.connectionName)
            return nil
        }
    }

    /// The session is over: nothing is to be kept for another daemon.
    borrowing func forgetMemory(_ regionCount: Int) {
        for region in 0..<regionCount { forget(region) }
        manager?.forget(name: KeptMemory.connectionName)
        manager?.synchronize()
    }

    /// What was kept under these names is to be let go.
    borrowing func forget(_ names: [String]) {
        for name in names { manager?.forget(name: name) }
        manager?.synchronize()
    }

    private borrowing func forget(_ region: Int) {
        for name in KeptMemory.names(region) { manager?.forget(name: name) }
    }

    /// What was kept belongs to no session any more.
    private mutating func releaseStored() {
        for name in Set(stored.names) { manager?.forget(name: name) }
        while let name = stored.names.first, let descriptor = stored.take(name) { close(descriptor) }
    }
}
