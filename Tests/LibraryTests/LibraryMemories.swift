import CPageFerry
import HostMemory
import PageCore
import Userfault

/// Whether this host lets a process have userfaultfds; prints the reason when not.
let canRegisterMemory: Bool = {
    do {
        _ = try UserfaultDescriptor.supportedFeatures()
        return true
    } catch {
        print("skipped: the library's sessions: \(error)")
        return false
    }
}()

/// A megabyte to be served, and one to be filled, registered; sessions of the library's between them.
final class LibraryMemories {
    private static let bytes = 1 << 20
    let source: MemoryFile
    let file: MemoryFile
    let mapping: MappedMemory
    let userfault: UserfaultDescriptor

    init() throws {
        source = try MemoryFile.create(name: "adoption-source", lengthBytes: Self.bytes)
        let written = try MappedMemory(of: source, lengthBytes: Self.bytes, access: .readWrite)
        written.withMutableBytes(0..<Self.bytes) { bytes in
            for index in 0..<(Self.bytes / 8) { bytes.storeBytes(of: Self.word(index), toByteOffset: 8 * index, as: UInt64.self) }
        }
        file = try MemoryFile.create(name: "adoption-guest", lengthBytes: Self.bytes)
        mapping = try MappedMemory(of: file, lengthBytes: Self.bytes, access: .readWrite)
        userfault = try UserfaultDescriptor(required: .sharedMemory)
        try userfault.register(address: mapping.address, lengthBytes: Self.bytes, modes: [.missing, .minor])
    }

    func isRight(page: Int) -> Bool {
        mapping.withBytes(4096 * page..<4096 * (page + 1)) { bytes in
            for index in 0..<512 where bytes.unsafeLoad(fromByteOffset: 8 * index, as: UInt64.self) != Self.word(512 * page + index) {
                return false
            }
            return true
        }
    }

    func openSource(_ sockets: [Int32], change: (inout pageferry_source_options) -> Void = { _ in }) -> Int64 {
        var region = pageferry_source_region()
        region.memory_descriptor = source.rawValue
        region.length_bytes = UInt64(Self.bytes)
        var options = pageferry_source_options()
        options.size = UInt32(MemoryLayout<pageferry_source_options>.size)
        options.region_count = 1
        return withUnsafePointer(to: &region) { region in
            sockets.withUnsafeBufferPointer { sockets in
                options.regions = region
                options.adopted_descriptors = sockets.baseAddress
                options.adopted_count = UInt32(sockets.count)
                change(&options)
                return pageferry_source_open(&options)
            }
        }
    }

    func openDestination(_ sockets: [Int32], change: (inout pageferry_destination_options) -> Void = { _ in }) -> Int64 {
        var region = pageferry_destination_region()
        region.address = UInt64(mapping.address)
        region.length_bytes = UInt64(Self.bytes)
        region.page_size_bytes = 4096
        region.userfault_descriptor = userfault.rawValue
        region.memory_descriptor = file.rawValue
        var options = pageferry_destination_options()
        options.size = UInt32(MemoryLayout<pageferry_destination_options>.size)
        options.region_count = 1
        return withUnsafePointer(to: &region) { region in
            sockets.withUnsafeBufferPointer { sockets in
                options.regions = region
                options.adopted_descriptors = sockets.baseAddress
                options.adopted_count = UInt32(sockets.count)
                change(&options)
                return pageferry_destination_open(&options)
            }
        }
    }

    private static func word(_ index: Int) -> UInt64 { UInt64(truncatingIfNeeded: index) &* 0x9E37_79B9_7F4A_7C15 | 1 }
}
