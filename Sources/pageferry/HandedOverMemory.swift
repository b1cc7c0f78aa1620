import Handoff
import HostMemory
import PageCore
import PageFerry
import Userfault

extension DestinationRegion {
    /// The regions of a hand-off for a session, which gets descriptors of its own.
    static func list(from handedOver: borrowing HandedOverRegions) throws(CommandFailure) -> [DestinationRegion] {
        var regions: [DestinationRegion] = []
        for index in 0..<handedOver.count {
            regions.append(try region(handedOver, index))
        }
        return regions
    }

    /// The memory of a QEMU, its regions in the order in which the source lists them, whatever the order in which it has mapped them.
    static func list(from handedOver: borrowing HandedOverRegions, in commandLine: QemuCommandLine) throws(CommandFailure) -> DestinationRegions {
        let mapped = try list(from: handedOver)
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

    private static func region(_ handedOver: borrowing HandedOverRegions, _ index: Int) throws(CommandFailure) -> DestinationRegion {
        let userfault: Int32
        do throws(UserfaultError) {
            userfault = try handedOver[index].userfault.duplicated().release()
        } catch {
            throw CommandFailure(error.description, .operatingSystem)
        }
        var backing: Backing?
        do throws(HostMemoryError) {
            if let descriptor = try handedOver[index].file?.duplicated().release() {
                backing = Backing(descriptor: descriptor, fileOffset: handedOver[index].fileOffset)
            }
        } catch {
            throw CommandFailure(error.description, .operatingSystem)
        }
        return DestinationRegion(
            name: handedOver[index].name, guestAddress: handedOver[index].address, lengthBytes: handedOver[index].lengthBytes,
            pageSize: handedOver[index].pageSize, userfault: userfault, backing: backing)
    }
}
