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

    /// The pieces of a hand-off as one region, which the source serves as one file: ordered by their file offsets, all served by
    /// the first one's userfaultfd.
    ///
    /// - Throws: `.badRegion` when they leave a gap in the file, share a byte of it, or differ in their page size.
    public static func joined(from handedOver: borrowing HandedOverRegions) throws(HandoffError) -> DestinationRegion {
        var order: [Int] = []
        for index in 0..<handedOver.count { order.append(index) }
        var offsets: [Int] = []
        for index in order { offsets.append(handedOver[index].fileOffset) }
        order.sort { offsets[$0] < offsets[$1] }
        let pageSize = handedOver[0].pageSize
        var pieces: [Piece] = []
        var end = 0
        for index in order {
            let name = handedOver[index].name
            guard handedOver[index].fileOffset == end else {
                throw .badRegion(
                    name: name,
                    detail: "it begins at byte \(handedOver[index].fileOffset) of the memory file, the one before it ends at byte \(end)")
            }
            guard handedOver[index].pageSize == pageSize else {
                throw .badRegion(name: name, detail: "its pages differ in size from those of the others")
            }
            pieces.append(Piece(guestAddress: handedOver[index].address, lengthBytes: handedOver[index].lengthBytes))
            end += handedOver[index].lengthBytes
        }
        // Last: it has a descriptor of its own, which nobody would close.
        var joined = try region(handedOver, order[0])
        joined.name = "memory"
        joined.pieces = pieces
        joined.lengthBytes = end
        return joined
    }

    private static func region(_ handedOver: borrowing HandedOverRegions, _ index: Int) throws(HandoffError) -> DestinationRegion {
        guard !handedOver[index].isRemoved else {
            return .removed(name: handedOver[index].name, lengthBytes: handedOver[index].lengthBytes, pageSize: handedOver[index].pageSize)
        }
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
