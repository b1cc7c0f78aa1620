import Glibc
import HostMemory
import PageCore
import Userfault

/// A region of guest memory that its VMM handed over: where it faults, and how its pages are installed. Owns the
/// descriptors that came with it.
public struct HandedOverRegion: ~Copyable, Sendable {
    public let name: String
    /// Where the VMM has it: the addresses of its faults, and of installs.
    public let address: UInt
    public let lengthBytes: Int
    public let pageSize: PageSize
    /// Where the region begins in its file; 0 for anonymous memory.
    public let fileOffset: Int
    /// What the VMM registered the range with.
    public let modes: UserfaultModes
    /// The number of the first region that is served by the same userfaultfd; its own number when it has one to itself.
    public let userfaultOf: RegionIndex
    private var heldUserfault: UserfaultDescriptor?
    /// The memory's file, writable; nil for anonymous memory, and for a region that was taken out.
    public private(set) var file: MemoryFile?

    /// The userfaultfd the range is registered with. Traps for a region that was taken out.
    public var userfault: UserfaultDescriptor {
        _read { yield heldUserfault! }
    }

    /// Whether it was taken out: it keeps its number, and nothing of its memory is held here.
    public var isRemoved: Bool { heldUserfault == nil }

    /// For adapters of other hand-offs too. `number` is the region's own.
    public init(
        name: String, address: UInt, lengthBytes: Int, pageSize: PageSize, fileOffset: Int, modes: UserfaultModes,
        userfaultOf: RegionIndex, userfault: consuming UserfaultDescriptor, file: consuming MemoryFile?
    ) {
        self.name = name
        self.address = address
        self.lengthBytes = lengthBytes
        self.pageSize = pageSize
        self.fileOffset = fileOffset
        self.modes = modes
        self.userfaultOf = userfaultOf
        heldUserfault = consume userfault
        self.file = file
    }

    /// A region that was taken out before it was handed over again.
    init(removed name: String, lengthBytes: Int, pageSize: PageSize, number: RegionIndex) {
        self.name = name
        address = 0
        self.lengthBytes = lengthBytes
        self.pageSize = pageSize
        fileOffset = 0
        modes = []
        userfaultOf = number
        heldUserfault = nil
        file = nil
    }

    /// Closes its descriptors.
    mutating func release() {
        heldUserfault = nil
        file = nil
    }

    public var kind: HandoffMemoryKind { file == nil ? .anonymous : .shared }

    public var pageCount: Int { lengthBytes >> pageSize.shift }

    /// One past the last address.
    public var endAddress: UInt { address + UInt(lengthBytes) }

    /// The descriptor of the region's file, borrowed; nil for anonymous memory.
    borrowing func fileDescriptor() -> Int32? {
        switch file {
        case .some(let file): file.rawValue
        case .none: nil
        }
    }

    /// The daemon's own mapping of the region's file (mapping B); nil for anonymous memory.
    public borrowing func mapFile() throws(HostMemoryError) -> MappedMemory? {
        guard file != nil else { return nil }
        return try MappedMemory(of: file!, offset: fileOffset, lengthBytes: lengthBytes, access: .readWrite)
    }
}

/// The regions of one hand-off, in the order they came. At most `RegionLayout.mostRegions`.
@safe public struct HandedOverRegions: ~Copyable, @unchecked Sendable {
    // Storage of noncopyable elements, which Array does not take: allocated once, the first `count` initialised.
    private let storage: UnsafeMutableBufferPointer<HandedOverRegion>
    public private(set) var count = 0

    public init() {
        unsafe storage = .allocate(capacity: RegionLayout.mostRegions)
    }

    deinit {
        // SAFETY: exactly the first `count` elements are initialised, and this value alone owns the storage.
        unsafe storage.extracting(0..<count).deinitialize()
        unsafe storage.deallocate()
    }

    /// The region at `index`, from 0 to `count`.
    public subscript(_ index: Int) -> HandedOverRegion {
        _read {
            precondition(index >= 0 && index < count, "a region's number stays inside its hand-off")
            // SAFETY: the element is initialised, as was just checked.
            yield unsafe storage[index]
        }
    }

    /// Adds a region that was checked. Traps beyond `RegionLayout.mostRegions`.
    public mutating func append(_ region: consuming HandedOverRegion) {
        precondition(count < RegionLayout.mostRegions, "no more regions than a session may have")
        // SAFETY: this element is not initialised yet, and lies inside the storage.
        unsafe storage.initializeElement(at: count, to: region)
        count += 1
    }

    /// Takes a region out: it keeps its number, and its descriptors are closed.
    public mutating func remove(_ index: Int) {
        precondition(index >= 0 && index < count, "a region's number stays inside its hand-off")
        // Out and in again: the compiler (6.3.1) fails over a change in place under the thread sanitizer.
        // SAFETY: the element is initialised, as was just checked, this value alone owns the storage, and the place is filled again.
        var region = unsafe storage.moveElement(from: index)
        region.release()
        unsafe storage.initializeElement(at: index, to: region)
    }

    /// The regions as both hosts describe them.
    public borrowing func layout() throws(RegionLayoutError) -> RegionLayout {
        var descriptions: [RegionDescription] = []
        for index in 0..<count {
            descriptions.append(
                try RegionDescription(
                    name: self[index].name, lengthBytes: self[index].lengthBytes, pageSize: self[index].pageSize))
        }
        return try RegionLayout(descriptions)
    }
}
