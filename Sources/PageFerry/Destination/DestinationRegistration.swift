import HostMemory
import PageCore
import PageTransport
import PageWire
import Verbs

/// A destination's memory, registered so that its device may write there: mapping B of each region, and the slab for
/// regions without one. Never mapping A, which faults.
///
/// Registering allocates and pins everything: it is done while the guest still runs on the source.
///
/// SAFETY: Sendable, because nothing changes after its init but by `release`, which the session's thread calls, the only one that uses
/// it once the session runs.
final class DestinationRegistration: @unchecked Sendable {
    private final class Chunk: Sendable {
        let registration: MemoryRegistration

        init(_ registration: consuming MemoryRegistration) { self.registration = registration }

        func named(_ offset: Int, lengthBytes: Int) -> (local: LocalMemory, target: WriteTarget) {
            precondition(offset >= 0 && offset + lengthBytes <= registration.lengthBytes, "a piece lies in one chunk")
            let address = registration.address + UInt(offset)
            return (
                LocalMemory(address: address, key: registration.localKey),
                WriteTarget(address: UInt64(address), key: registration.remoteKey)
            )
        }
    }

    /// A region's registered chunks, of equal lengths but for the last; empty without mapping B.
    private struct View: Sendable {
        var chunks: [Chunk]
        var shift: Int
    }

    private static let chunkBytes = 64 << 20

    let domain: ProtectionDomain
    private var views: [View]
    private let slab: Chunk
    /// Where ranges that cannot be received in place are received, a piece a slot.
    let slabs: Slabs
    let slotCount: Int
    /// The most bytes of one piece.
    let extentBytes: Int

    /// - Parameter isWritable: whether the source may write too; otherwise only the device of this host does.
    init(_ regions: DestinationRegions, domain: ProtectionDomain, isWritable: Bool) throws(SessionError) {
        self.domain = domain
        let access: MemoryAccess = isWritable ? [.localWrite, .remoteWrite] : .localWrite
        let hasHugePages = regions.layout.regions.contains { $0.pageSize == .twoMiB }
        slotCount = hasHugePages ? 16 : 32
        extentBytes = hasHugePages ? PageSize.twoMiB.bytes : 128 << 10
        let slabs = try Slabs(count: slotCount, bytesEach: extentBytes)
        do throws(VerbsError) {
            var views: [View] = []
            for number in 0..<RegionIndex(regions.layout.count) {
                var chunks: [Chunk] = []
                let description = regions.layout[number]
                if let base = regions.mappingAddress(number) {
                    for offset in stride(from: 0, to: description.lengthBytes, by: Self.chunkBytes) {
                        chunks.append(
                            Chunk(
                                try MemoryRegistration(
                                    domain, address: base + UInt(offset),
                                    lengthBytes: min(Self.chunkBytes, description.lengthBytes - offset), access: access)))
                    }
                }
                views.append(View(chunks: chunks, shift: description.pageSize.shift))
            }
            self.views = views
            slab = Chunk(
                try MemoryRegistration(
                    domain, address: slabs.address(0, 0), lengthBytes: slotCount * extentBytes, access: access))
        } catch {
            throw SessionError(error)
        }
        self.slabs = slabs
    }

    /// Lets go of a region's memory, where nothing is being received.
    func release(_ region: RegionIndex) { views[Int(region)].chunks = [] }

    /// Where a range is received in place.
    ///
    /// - Precondition: it lies in one chunk of a region with mapping B.
    func local(_ range: PageRange) -> LocalMemory { named(range).local }

    /// The same for the source, as the payload of a grant.
    func target(_ range: PageRange) -> WriteTarget { named(range).target }

    private func named(_ range: PageRange) -> (local: LocalMemory, target: WriteTarget) {
        let view = views[Int(range.region)]
        let offset = range.first << view.shift
        return view.chunks[offset / Self.chunkBytes].named(offset % Self.chunkBytes, lengthBytes: range.count << view.shift)
    }

    /// A slot's piece of the slab.
    func slabMemory(_ slot: Int) -> (local: LocalMemory, target: WriteTarget) {
        slab.named(slot * extentBytes, lengthBytes: extentBytes)
    }

    /// Pages from `page` on that lie in one chunk with it; all of them where nothing is received in place.
    func contiguous(_ region: RegionIndex, from page: PageIndex) -> Int {
        let view = views[Int(region)]
        guard !view.chunks.isEmpty else { return .max }
        let perChunk = Self.chunkBytes >> view.shift
        return perChunk - page % perChunk
    }
}
