import HostMemory
import PageCore
import PageFerry
import Userfault

/// The kinds of memory the demonstration moves.
public enum MemoryKind: String, Sendable, CaseIterable, Codable {
    /// A memfd, mapped twice: what VMMs use for guest RAM that others may share.
    case shared
    /// Private anonymous memory: what a plain process has.
    case anonymous
}

/// Memory of this process that is about to be filled from elsewhere, as a VMM would have it. Whoever uses it keeps it: threads
/// that wait for a page for ever, after a session has failed, must not find it unmapped.
final class MemoryHost: Sendable {
    private let guest: MappedMemory
    private let file: MemoryFile?
    /// Kept open here, as a VMM keeps its own: were the session's the last one, closing it would let zeros in.
    private let userfault: UserfaultDescriptor
    let memory: PatternedMemory
    private let kind: MemoryKind

    init(kind: MemoryKind, lengthBytes: Int) throws(DemonstrationError) {
        self.kind = kind
        do {
            switch kind {
            case .shared:
                let created = try MemoryFile.create(name: "pageferry-demo", lengthBytes: lengthBytes)
                let mapping = try MappedMemory(of: created, lengthBytes: lengthBytes, access: .readWrite)
                let userfault = try UserfaultDescriptor(required: [.missingSharedMemory, .minorSharedMemory])
                try userfault.register(address: mapping.address, lengthBytes: lengthBytes, modes: [.missing, .minor])
                // SAFETY: the mapping is kept by this value for as long as the memory is used.
                memory = unsafe PatternedMemory(
                    address: mapping.address, pageCount: lengthBytes >> PageSize.fourKiB.shift)
                guest = consume mapping
                file = consume created
                self.userfault = consume userfault
            case .anonymous:
                let mapping = try MappedMemory(anonymousBytes: lengthBytes)
                let userfault = try UserfaultDescriptor(required: [])
                try userfault.register(address: mapping.address, lengthBytes: lengthBytes, modes: .missing)
                // SAFETY: the mapping is kept by this value for as long as the memory is used.
                memory = unsafe PatternedMemory(
                    address: mapping.address, pageCount: lengthBytes >> PageSize.fourKiB.shift)
                guest = consume mapping
                file = nil
                self.userfault = consume userfault
            }
        } catch {
            throw DemonstrationError("\(error)")
        }
    }

    /// What a VMM hands over: descriptors of its own, duplicated for the session.
    func handOver() throws(DemonstrationError) -> DestinationRegion {
        do {
            let descriptor = try userfault.duplicated().release()
            var backing: DestinationRegion.Backing?
            if kind == .shared, let copy = try file?.duplicated().release() {
                backing = DestinationRegion.Backing(descriptor: copy, fileOffset: 0)
            }
            return DestinationRegion(
                name: "memory", guestAddress: guest.address, lengthBytes: guest.lengthBytes, pageSize: guest.pageSize,
                userfault: descriptor, backing: backing)
        } catch {
            throw DemonstrationError("\(error)")
        }
    }
}
