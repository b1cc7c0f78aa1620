import Handoff
import NativeHandoff
import PageCore
import PageFerry

extension DestinationRegion {
    /// The memory of a QEMU, its regions in the order in which the source lists them, whatever the order in which it has mapped them.
    ///
    /// - Parameter names: the ids of its memory backends, in the order in which they were handed over.
    static func list(from handedOver: borrowing HandedOverRegions, named names: [String]) throws(CommandFailure) -> DestinationRegions {
        let mapped = try attempt { () throws(HandoffError) in try list(from: handedOver) }
        guard mapped.count == names.count else {
            throw CommandFailure("QEMU handed \(mapped.count) regions over, it has \(names.count) memory backends", .dataError)
        }
        // In the order of the ids: the same on both hosts.
        let ordered = names.indices.sorted { names[$0] < names[$1] }.map { number in
            var region = mapped[number]
            region.name = names[number]
            return region
        }
        return try attempt { () throws(SessionError) in try DestinationRegions(ordered) }
    }
}
