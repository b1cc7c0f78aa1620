import FirecrackerHandoff
import Handoff
import NativeHandoff
import PageCore
import PageFerry

/// Memory that a VMM has handed over, and what tells of that VMM's end.
struct AwaitedMemory: ~Copyable {
    enum Client: ~Copyable {
        case native(HandoffConnection)
        case firecracker(FirecrackerConnection)
    }

    private let client: Client
    private(set) var regions: HandedOverRegions

    private static let regionsTimeoutNanoseconds: UInt64 = 30_000_000_000

    init(_ client: consuming Client, _ regions: consuming HandedOverRegions) {
        self.client = client
        self.regions = regions
    }

    /// Waits for a VMM. One that comes for another reason, with memory that another daemon has served, is sent away.
    ///
    /// - Parameters:
    ///   - again: whether such memory is just what is awaited; never Firecracker's, which hands over once.
    ///   - takesRequests: whether the caller serves the VMM's requests.
    ///   - isCancelled: asked a few times a second.
    /// - Returns: nil when cancelled.
    static func receive(
        _ listener: borrowing HandoffListener, as form: HandoffArgument.Form = .native, again: Bool, takesRequests: Bool = false,
        isCancelled: () -> Bool
    ) throws(CommandFailure) -> AwaitedMemory? {
        while true {
            do throws(HandoffError) {
                return try receiveOnce(listener, form, again: again, takesRequests)
            } catch .timedOut(let step) where step.hasPrefix("waiting for a VMM to connect") {
                if isCancelled() { return nil }
            } catch .wrongOccasion, .otherVersion {
                continue
            } catch {
                throw CommandFailure(error)
            }
        }
    }

    private static func receiveOnce(
        _ listener: borrowing HandoffListener, _ form: HandoffArgument.Form, again: Bool, _ takesRequests: Bool
    ) throws(HandoffError) -> AwaitedMemory {
        switch form {
        case .native:
            let connection = try listener.accept(timeoutNanoseconds: 200_000_000)
            let regions = try connection.receiveRegions(
                again: again, takesRequests: takesRequests, timeoutNanoseconds: regionsTimeoutNanoseconds)
            return AwaitedMemory(.native(connection), regions)
        case .firecracker:
            let connection = try FirecrackerConnection.accept(listener, timeoutNanoseconds: 200_000_000)
            let regions = try connection.receiveRegions(timeoutNanoseconds: regionsTimeoutNanoseconds)
            if connection.processDescriptor == nil {
                Console.info("Firecracker's process cannot be seen from here: its end is noticed when its memory is filled")
            }
            return AwaitedMemory(.firecracker(connection), regions)
        }
    }

    /// The regions for a session, which gets descriptors of its own.
    borrowing func destinationRegions() throws(CommandFailure) -> [DestinationRegion] {
        switch client {
        case .native: try attempt { () throws(HandoffError) in try DestinationRegion.list(from: regions) }
        case .firecracker: [try attempt { () throws(HandoffError) in try DestinationRegion.joined(from: regions) }]
        }
    }

    /// Tells a VMM that listens that its memory is served.
    borrowing func acknowledge() throws(CommandFailure) {
        switch client {
        case .native(let connection): try attempt { () throws(HandoffError) in try connection.acknowledge() }
        case .firecracker: break
        }
    }

    /// Tells a VMM that listens why its memory is not served.
    borrowing func refuse(_ text: String) {
        switch client {
        case .native(let connection): try? connection.refuse(text)
        case .firecracker: break
        }
    }

    /// What the VMM asks for, or that it has gone.
    var nextRequest: HandoffRequest? {
        switch client {
        case .native(let connection): (try? connection.nextRequest(regionCount: regions.count)) ?? nil
        case .firecracker(let connection): connection.hasEnded ? .ended : nil
        }
    }

    /// A region was taken out: nothing of its memory is held here any more.
    mutating func remove(_ region: Int) { regions.remove(region) }

    /// The request that was last seen is done.
    borrowing func finishRequest() {
        // A VMM that has gone meanwhile is noticed as such.
        switch client {
        case .native(let connection): try? connection.finishRequest()
        case .firecracker: break
        }
    }

    /// Tells a VMM that listens that every page is here, and that this daemon ends.
    borrowing func tellFinished() {
        switch client {
        case .native(let connection): try? connection.tellFinished()
        case .firecracker: break
        }
    }

    /// The version of the native protocol that is spoken; nil for another.
    var version: UInt32? {
        switch client {
        case .native(let connection): connection.version
        case .firecracker: nil
        }
    }

    /// What tells of the VMM's end, borrowed; nil when nothing does.
    var clientDescriptor: Int32? {
        switch client {
        case .native(let connection): connection.rawValue
        case .firecracker(let connection): connection.processDescriptor
        }
    }

    /// The process that handed it over; nil when it cannot be seen from here.
    var peerProcess: Int32? {
        switch client {
        case .native(let connection): connection.peer.processIdentifier > 0 ? connection.peer.processIdentifier : nil
        case .firecracker(let connection): connection.peer?.processIdentifier
        }
    }

    /// The process that handed it over, where it is known by its number alone.
    var firecrackerProcess: Int32? {
        switch client {
        case .native: nil
        case .firecracker(let connection): connection.peer?.processIdentifier
        }
    }
}
