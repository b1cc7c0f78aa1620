import PageCore

/// One region of guest memory as it was handed over. The descriptors belong to the session it is given to.
public struct DestinationRegion: Sendable {
    /// The memory's file and where the region begins in it.
    public struct Backing: Sendable {
        public var descriptor: Int32
        public var fileOffset: Int

        public init(descriptor: Int32, fileOffset: Int) {
            self.descriptor = descriptor
            self.fileOffset = fileOffset
        }
    }

    public var name: String
    /// Where the region lies in the process that runs the guest.
    public var guestAddress: UInt
    public var lengthBytes: Int
    public var pageSize: PageSize
    /// The userfaultfd with which the range is registered: missing and minor for shared memory, missing for anonymous.
    public var userfault: Int32
    /// The file behind shared memory; nil for anonymous memory.
    public var backing: Backing?

    public init(
        name: String, guestAddress: UInt, lengthBytes: Int, pageSize: PageSize, userfault: Int32, backing: Backing?
    ) {
        self.name = name
        self.guestAddress = guestAddress
        self.lengthBytes = lengthBytes
        self.pageSize = pageSize
        self.userfault = userfault
        self.backing = backing
    }

    /// The layout of regions in their order.
    static func layout(of regions: [DestinationRegion]) throws(SessionError) -> RegionLayout {
        do throws(RegionLayoutError) {
            var descriptions: [RegionDescription] = []
            for region in regions {
                descriptions.append(try RegionDescription(
                    name: region.name, lengthBytes: region.lengthBytes, pageSize: region.pageSize))
            }
            return try RegionLayout(descriptions)
        } catch {
            throw .memory(error.description)
        }
    }
}
