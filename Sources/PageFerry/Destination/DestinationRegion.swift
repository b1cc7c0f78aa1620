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

    /// A run of the region's pages as the process that runs the guest has mapped it.
    public struct Piece: Sendable, Hashable {
        public var guestAddress: UInt
        public var lengthBytes: Int

        public init(guestAddress: UInt, lengthBytes: Int) {
            self.guestAddress = guestAddress
            self.lengthBytes = lengthBytes
        }
    }

    public var name: String
    /// Where the region lies in the process that runs the guest: in one piece, or in several, in the order of its pages.
    public var pieces: [Piece]
    public var lengthBytes: Int
    public var pageSize: PageSize
    /// The userfaultfd with which the range is registered: missing and minor for shared memory, missing for anonymous.
    public var userfault: Int32
    /// The file behind shared memory; nil for anonymous memory.
    public var backing: Backing?
    /// Whether it was taken out before this session's daemon began: it keeps its place, its pages count as given up, and there is no
    /// memory behind it.
    public var isRemoved = false

    public init(
        name: String, guestAddress: UInt, lengthBytes: Int, pageSize: PageSize, userfault: Int32, backing: Backing?
    ) {
        self.init(
            name: name, pieces: [Piece(guestAddress: guestAddress, lengthBytes: lengthBytes)], pageSize: pageSize, userfault: userfault,
            backing: backing)
    }

    /// - Parameters:
    ///   - name: for messages.
    ///   - pieces: whole pages each, which do not overlap; all registered with the one userfaultfd.
    ///   - pageSize: of the memory here; the source's must be the same.
    ///   - userfault: non-blocking, with its handshake made.
    ///   - backing: nil for anonymous memory.
    public init(name: String, pieces: [Piece], pageSize: PageSize, userfault: Int32, backing: Backing?) {
        self.name = name
        self.pieces = pieces
        lengthBytes = pieces.reduce(0) { $0 + $1.lengthBytes }
        self.pageSize = pageSize
        self.userfault = userfault
        self.backing = backing
    }

    /// A region that was taken out before this daemon began.
    public static func removed(name: String, lengthBytes: Int, pageSize: PageSize) -> DestinationRegion {
        var region = DestinationRegion(
            name: name, guestAddress: 0, lengthBytes: lengthBytes, pageSize: pageSize, userfault: -1, backing: nil)
        region.isRemoved = true
        return region
    }

    /// The layout of regions in their order.
    static func layout(of regions: [DestinationRegion]) throws(SessionError) -> RegionLayout {
        do throws(RegionLayoutError) {
            var descriptions: [RegionDescription] = []
            for region in regions {
                descriptions.append(
                    try RegionDescription(
                        name: region.name, lengthBytes: region.lengthBytes, pageSize: region.pageSize))
            }
            return try RegionLayout(descriptions)
        } catch {
            throw .memory(error.description)
        }
    }
}
