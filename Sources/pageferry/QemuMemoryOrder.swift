import Handoff
import NativeHandoff
import PageCore
import PageFerry

extension DestinationRegion {
    /// The memory of a QEMU, its regions in the order in which the source lists them, whatever the order in which it has mapped them.
    static func list(from handedOver: borrowing HandedOverRegions, in commandLine: QemuCommandLine) throws(CommandFailure) -> DestinationRegions {
        let mapped = try attempt { () throws(HandoffError) in try list(from: handedOver) }
        guard mapped.count == commandLine.backendNames.count else {
            throw CommandFailure(
                "QEMU handed \(mapped.count) regions over, its command line has \(commandLine.backendNames.count) memory backends", .dataError)
        }
        let ordered = commandLine.regionOrder.map { number in
            var region = mapped[number]
            region.name = commandLine.backendNames[number]
            return region
        }
        return try attempt { () throws(SessionError) in try DestinationRegions(ordered) }
    }
}
