import CShims
import Glibc
import HostMemory
import PageCore
import Userfault

/// A region whose descriptors somebody keeps beyond this daemon's life, as the next one finds it again: what the hand-off said of
/// it, without the descriptors.
public struct KeptRegion: Codable, Sendable, Hashable {
    var name: String
    var address: UInt64
    var lengthBytes: UInt64
    var fileOffset: UInt64
    var pageSizeBytes: UInt32
    /// `HandoffMemoryKind`.
    var kind: UInt16
    /// `UserfaultModes`.
    var modes: UInt16
    /// The first region with the same userfaultfd, and the first with the same file; its own number when it has its own.
    var userfaultOf: Int
    var fileOf: Int
    /// Whether it was taken out; nil: no. It keeps its place.
    var isRemoved: Bool?

    /// A region that came another way than by this hand-off; the modes its kind needs.
    public init(
        name: String, address: UInt64, lengthBytes: UInt64, fileOffset: UInt64, pageSizeBytes: UInt32, isShared: Bool, userfaultOf: Int,
        fileOf: Int
    ) {
        let (kind, modes): (HandoffMemoryKind, UserfaultModes) = isShared ? (.shared, [.missing, .minor]) : (.anonymous, .missing)
        self.init(
            name: name, address: address, lengthBytes: lengthBytes, fileOffset: fileOffset, pageSizeBytes: pageSizeBytes,
            kind: kind.rawValue, modes: UInt16(modes.rawValue), userfaultOf: userfaultOf, fileOf: fileOf)
    }

    init(
        name: String, address: UInt64, lengthBytes: UInt64, fileOffset: UInt64, pageSizeBytes: UInt32, kind: UInt16, modes: UInt16,
        userfaultOf: Int, fileOf: Int
    ) {
        self.name = name
        self.address = address
        self.lengthBytes = lengthBytes
        self.fileOffset = fileOffset
        self.pageSizeBytes = pageSizeBytes
        self.kind = kind
        self.modes = modes
        self.userfaultOf = userfaultOf
        self.fileOf = fileOf
    }
}

/// Descriptors of handed-over memory under names, for whoever keeps them.
public enum KeptMemory {
    /// The VMM's connection: its end says that the VMM has gone.
    public static let connectionName = "connection"

    /// The names under which a region's descriptors are kept, where it has its own.
    public static func names(_ region: Int) -> [String] { [userfaultName(region), fileName(region)] }

    public static func userfaultName(_ region: Int) -> String { "userfault-\(region)" }
    public static func fileName(_ region: Int) -> String { "file-\(region)" }

    /// Names each descriptor once, and says what has to be remembered beside them.
    ///
    /// - Parameter keep: gets each descriptor, borrowed, with its name.
    public static func keep(
        _ regions: borrowing HandedOverRegions, _ keep: (Int32, String) -> Void
    ) throws(HandoffError) -> [KeptRegion] {
        var kept: [KeptRegion] = []
        for index in 0..<regions.count {
            guard !regions[index].isRemoved else {
                kept.append(removed(regions[index], index))
                continue
            }
            let userfaultOf = Int(regions[index].userfaultOf)
            let fileOf = try firstWithSameFile(regions, index)
            if userfaultOf == index { keep(regions[index].userfault.rawValue, userfaultName(index)) }
            if fileOf == index, let file = regions[index].fileDescriptor() { keep(file, fileName(index)) }
            kept.append(
                KeptRegion(
                    name: regions[index].name, address: UInt64(regions[index].address), lengthBytes: UInt64(regions[index].lengthBytes),
                    fileOffset: UInt64(regions[index].fileOffset), pageSizeBytes: UInt32(regions[index].pageSize.bytes),
                    kind: regions[index].kind.rawValue, modes: UInt16(truncatingIfNeeded: regions[index].modes.rawValue),
                    userfaultOf: userfaultOf, fileOf: fileOf))
        }
        return kept
    }

    private static func removed(_ region: borrowing HandedOverRegion, _ index: Int) -> KeptRegion {
        var kept = KeptRegion(
            name: region.name, address: 0, lengthBytes: UInt64(region.lengthBytes), fileOffset: 0,
            pageSizeBytes: UInt32(region.pageSize.bytes), kind: HandoffProtocol.removedKind, modes: 0, userfaultOf: index, fileOf: index)
        kept.isRemoved = true
        return kept
    }

    /// Takes a region out of what is remembered.
    ///
    /// - Returns: the names under which nothing needs to be kept any more.
    public static func remove(_ number: Int, from kept: inout [KeptRegion]) -> [String] {
        kept[number].isRemoved = true
        let (userfault, file) = (kept[number].userfaultOf, kept[number].fileOf)
        let others = kept.filter { $0.isRemoved != true }
        var names: [String] = []
        if !others.contains(where: { $0.userfaultOf == userfault }) { names.append(userfaultName(userfault)) }
        if !others.contains(where: { $0.fileOf == file }) { names.append(fileName(file)) }
        return names
    }

    /// A store that finds the same open file twice keeps it once.
    private static func firstWithSameFile(_ regions: borrowing HandedOverRegions, _ index: Int) throws(HandoffError) -> Int {
        guard let file = regions[index].fileDescriptor() else { return index }
        let wanted = try identity(file)
        for earlier in 0..<index {
            if let other = regions[earlier].fileDescriptor(), try identity(other) == wanted { return earlier }
        }
        return index
    }

    /// Device and inode: what makes two descriptors those of one file.
    private static func identity(_ descriptor: Int32) throws(HandoffError) -> [UInt64] {
        var status = stat()
        // SAFETY: the kernel fills this local variable.
        guard unsafe fstat(descriptor, &status) == 0 else { throw .systemCall(call: "fstat(2)", code: errno) }
        return [UInt64(status.st_dev), UInt64(status.st_ino)]
    }
}

extension HandedOverRegions {
    /// The regions of a hand-off whose descriptors were kept, checked as if they had just come.
    ///
    /// - Parameter take: gives up the descriptor of a name; nil when it was not kept, which is `.wrongDescriptors`.
    public init(kept: [KeptRegion], take: (String) -> Int32?) throws(HandoffError) {
        self.init()
        // Where a descriptor is now that was kept under a number: with the first region that was not taken out.
        var userfaults: [Int: Int] = [:]
        var files: [Int: Int] = [:]
        for (index, region) in kept.enumerated() {
            guard (0...index).contains(region.userfaultOf), (0...index).contains(region.fileOf) else {
                throw .badRegion(name: region.name, detail: "what was kept of it is damaged")
            }
            var descriptors = ReceivedDescriptors()
            let isRemoved = region.isRemoved == true
            let userfaultOf = userfaults[region.userfaultOf]
            if !isRemoved {
                if userfaultOf == nil { descriptors.append(take(KeptMemory.userfaultName(region.userfaultOf))) }
                userfaults[region.userfaultOf] = userfaultOf ?? index
            }
            if !isRemoved, region.kind == HandoffMemoryKind.shared.rawValue {
                if let first = files[region.fileOf], let file = self[first].fileDescriptor() {
                    let copy = fcntl(file, F_DUPFD_CLOEXEC, 3)
                    descriptors.append(copy < 0 ? nil : copy)
                } else {
                    descriptors.append(take(KeptMemory.fileName(region.fileOf)))
                    files[region.fileOf] = index
                }
            }
            let announced = HandoffRegionMessage(
                name: region.name, address: region.address, lengthBytes: region.lengthBytes, fileOffset: region.fileOffset,
                pageSizeBytes: region.pageSizeBytes, kind: isRemoved ? HandoffProtocol.removedKind : region.kind, modes: region.modes,
                userfaultOf: userfaultOf.map { UInt16($0) } ?? HandoffProtocol.ownUserfault)
            append(try HandoffValidation.region(announced, &descriptors, after: self, mayBeRemoved: true))
        }
    }
}

extension HandoffConnection {
    /// The connection of a VMM that a daemon before this one has accepted. The descriptor belongs to this value from the call on.
    ///
    /// - Parameter version: what the VMM spoke with that daemon.
    public init(kept descriptor: Int32, version: UInt32) throws(HandoffError) {
        try self.init(HandoffSocket(adopting: descriptor), version: version)
    }
}
