import HostMemory
import PageCore
import PageFerry
import Userfault

extension DestinationRegion {
    /// The regions of a hand-off for a session, which gets descriptors of its own.
    public static func list(from handedOver: borrowing HandedOverRegions) throws(HandoffError) -> [DestinationRegion] {
        var regions: [DestinationRegion] = []
        for index in 0..<handedOver.count {
            regions.append(try region(handedOver, index))
        }
        return regions
    }

    private static func region(_ handedOver: borrowing HandedOverRegions, _ index: Int) throws(HandoffError) -> DestinationRegion {
        let userfault: Int32
        do throws(UserfaultError) {
            userfault = try handedOver[index].userfault.duplicated().release()
        } catch {
            throw .badUserfault(name: handedOver[index].name, detail: error.description)
        }
        var backing: Backing?
        do throws(HostMemoryError) {
            if let descriptor = try handedOver[index].file?.duplicated().release() {
                backing = Backing(descriptor: descriptor, fileOffset: handedOver[index].fileOffset)
            }
        } catch {
            throw .badFile(name: handedOver[index].name, detail: error.description)
        }
        return DestinationRegion(
            name: handedOver[index].name, guestAddress: handedOver[index].address, lengthBytes: handedOver[index].lengthBytes,
            pageSize: handedOver[index].pageSize, userfault: userfault, backing: backing)
    }
}
