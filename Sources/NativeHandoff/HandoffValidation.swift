import CShims
import Glibc
import HostMemory
import PageCore
import Userfault

/// Checks of what a VMM announces: hostile until it passed. Each throws one line that says what is wrong.
enum HandoffValidation {
    /// The region `announced`, with its descriptors taken over. Those that are not used stay in `descriptors`, to be closed.
    ///
    /// - Parameter mayBeRemoved: whether it may have been taken out: when it is handed over again.
    static func region(
        _ announced: HandoffRegionMessage, _ descriptors: inout ReceivedDescriptors, after regions: borrowing HandedOverRegions,
        mayBeRemoved: Bool = false
    ) throws(HandoffError) -> HandedOverRegion {
        guard regions.count < RegionLayout.mostRegions else { throw .tooManyRegions }
        let pageSize = try bounds(announced)
        if announced.kind == HandoffProtocol.removedKind, mayBeRemoved {
            guard descriptors.count == 0 else {
                throw .wrongDescriptors(name: announced.name, expected: 0, received: descriptors.count)
            }
            return HandedOverRegion(
                removed: announced.name, lengthBytes: Int(announced.lengthBytes), pageSize: pageSize, number: RegionIndex(regions.count))
        }
        guard let kind = HandoffMemoryKind(rawValue: announced.kind) else {
            throw .badRegion(name: announced.name, detail: "its kind \(announced.kind) is unknown")
        }
        let modes = try modes(announced, kind)
        for index in 0..<regions.count where !regions[index].isRemoved {
            guard
                UInt(announced.address) >= regions[index].endAddress
                    || UInt(announced.address + announced.lengthBytes) <= regions[index].address
            else { throw .overlap(name: announced.name, other: regions[index].name) }
        }
        let ownsUserfault = announced.userfaultOf == HandoffProtocol.ownUserfault
        let expected = (ownsUserfault ? 1 : 0) + (kind == .shared ? 1 : 0)
        guard descriptors.count == expected else {
            throw .wrongDescriptors(name: announced.name, expected: expected, received: descriptors.count)
        }
        let userfaultOf = ownsUserfault ? RegionIndex(regions.count) : announced.userfaultOf
        guard ownsUserfault || (Int(userfaultOf) < regions.count && !regions[Int(userfaultOf)].isRemoved) else {
            throw .badUserfault(name: announced.name, detail: "it shares the userfaultfd of region \(userfaultOf), which is not there")
        }
        let userfault =
            ownsUserfault
            ? try adoptUserfault(descriptors.take(0), announced.name)
            : try duplicateUserfault(of: regions[Int(userfaultOf)].userfault, announced.name)
        let file =
            kind == .shared
            ? try adoptFile(descriptors.take(ownsUserfault ? 1 : 0), announced, pageSize, regions) : nil
        return HandedOverRegion(
            name: announced.name, address: UInt(announced.address), lengthBytes: Int(announced.lengthBytes),
            pageSize: pageSize, fileOffset: Int(announced.fileOffset), modes: modes,
            userfaultOf: ownsUserfault ? userfaultOf : regions[Int(userfaultOf)].userfaultOf,
            userfault: userfault, file: file)
    }

    private static func bounds(_ announced: HandoffRegionMessage) throws(HandoffError) -> PageSize {
        guard let pageSize = PageSize(bytes: Int(announced.pageSizeBytes)) else {
            throw .badRegion(name: announced.name, detail: "its page size of \(announced.pageSizeBytes) bytes is not supported")
        }
        let mask = UInt64(pageSize.bytes - 1)
        guard announced.lengthBytes > 0 else { throw .badRegion(name: announced.name, detail: "it is empty") }
        guard (announced.address | announced.lengthBytes | announced.fileOffset) & mask == 0 else {
            throw .badRegion(
                name: announced.name, detail: "address, length and file offset are not all multiples of its \(pageSize.bytes)-byte page")
        }
        let most = UInt64(RegionLayout.mostBytes)
        guard announced.kind == HandoffProtocol.removedKind || announced.address > 0, announced.address < most,
            announced.lengthBytes <= most - announced.address, announced.fileOffset <= most
        else { throw .badRegion(name: announced.name, detail: "it exceeds an address space") }
        return pageSize
    }

    private static func modes(
        _ announced: HandoffRegionMessage, _ kind: HandoffMemoryKind
    ) throws(HandoffError) -> UserfaultModes {
        let modes = UserfaultModes(rawValue: UInt64(announced.modes))
        guard modes.contains(.missing), modes.isSubset(of: [.missing, .minor, .writeProtected]) else {
            throw .badRegion(name: announced.name, detail: "it must be registered for missing faults (modes \(announced.modes))")
        }
        // A page half written to the file would be mapped at once.
        guard kind == .anonymous || modes.contains(.minor) else {
            throw .badRegion(name: announced.name, detail: "shared memory must be registered for minor faults too")
        }
        return modes
    }

    private static func adoptUserfault(_ descriptor: Int32, _ name: String) throws(HandoffError) -> UserfaultDescriptor {
        do throws(UserfaultError) {
            return try UserfaultDescriptor(adopting: descriptor)
        } catch {
            throw .badUserfault(name: name, detail: error.description)
        }
    }

    private static func duplicateUserfault(
        of userfault: borrowing UserfaultDescriptor, _ name: String
    ) throws(HandoffError) -> UserfaultDescriptor {
        do throws(UserfaultError) {
            return try userfault.duplicated()
        } catch {
            throw .badUserfault(name: name, detail: error.description)
        }
    }

    private static func adoptFile(
        _ descriptor: Int32, _ announced: HandoffRegionMessage, _ pageSize: PageSize, _ regions: borrowing HandedOverRegions
    ) throws(HandoffError) -> MemoryFile {
        let name = announced.name
        let file = try unwrapping(name) { () throws(HostMemoryError) in try MemoryFile(adopting: descriptor, name: name) }
        let fileBytes = try unwrapping(name) { () throws(HostMemoryError) in try file.lengthBytes() }
        let end = announced.fileOffset + announced.lengthBytes
        guard end <= UInt64(fileBytes) else {
            throw .badFile(name: name, detail: "it has \(fileBytes) bytes, but the region ends at byte \(end)")
        }
        guard file.pageSize == pageSize else {
            throw .badFile(name: name, detail: "its pages have \(file.pageSize.bytes) bytes, the region's \(pageSize.bytes)")
        }
        guard fcntl(file.rawValue, F_GETFL) & O_ACCMODE == O_RDWR else {
            throw .badFile(name: name, detail: "its descriptor is not open for reading and writing")
        }
        for index in 0..<regions.count where try shares(file, announced, with: regions[index]) {
            throw .overlap(name: name, other: regions[index].name)
        }
        return file
    }

    /// Whether `region` covers a byte of the same file: each page is handed over once.
    private static func shares(
        _ file: borrowing MemoryFile, _ announced: HandoffRegionMessage, with region: borrowing HandedOverRegion
    ) throws(HandoffError) -> Bool {
        guard region.file != nil, Int(announced.fileOffset) < region.fileOffset + region.lengthBytes,
            region.fileOffset < Int(announced.fileOffset + announced.lengthBytes)
        else { return false }
        return try unwrapping(announced.name) { () throws(HostMemoryError) in try region.file!.isSameFile(as: file) }
    }

    private static func unwrapping<Result: ~Copyable>(
        _ name: String, _ body: () throws(HostMemoryError) -> Result
    ) throws(HandoffError) -> Result {
        do throws(HostMemoryError) {
            return try body()
        } catch {
            throw .badFile(name: name, detail: error.description)
        }
    }
}

extension HandedOverRegions {
    /// Adds a run of the VMM's anonymous memory that came by another hand-off, with the same checks.
    ///
    /// - Parameters:
    ///   - fileOffset: where its content begins in the source's memory file.
    ///   - descriptors: holds the userfaultfd when this is the first region, which all share.
    package mutating func appendAnonymous(
        name: String, address: UInt64, lengthBytes: UInt64, fileOffset: UInt64, pageSizeBytes: UInt32,
        _ descriptors: inout ReceivedDescriptors
    ) throws(HandoffError) {
        let announced = HandoffRegionMessage(
            name: name, address: address, lengthBytes: lengthBytes, fileOffset: fileOffset, pageSizeBytes: pageSizeBytes,
            kind: HandoffMemoryKind.anonymous.rawValue, modes: UInt16(UserfaultModes.missing.rawValue),
            userfaultOf: count == 0 ? HandoffProtocol.ownUserfault : 0)
        append(try HandoffValidation.region(announced, &descriptors, after: self))
    }
}
