import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

/// The kernel installs within one mapping of the process at a time; whoever has made several of one must not lose pages by it.
@Suite(.leavesNothing, .serialized, .enabled(if: userfaultIsPermitted)) struct SplitMappingTests {
    private static let pages = 32

    private func source() throws -> MappedMemory {
        let source = try MappedMemory(anonymousBytes: Self.pages * 4096)
        for page in 0..<Self.pages { memset(source.pointer + page * 4096, Int32(page + 1), 4096) }
        return source
    }

    private func byte(_ address: UInt) -> UInt8 { UnsafePointer<UInt8>(bitPattern: address)!.pointee }

    /// Pages 5, and 11 to 12, become mappings of their own.
    private func split(_ address: UInt) {
        #expect(mprotect(UnsafeMutableRawPointer(bitPattern: address + 5 * 4096), 4096, PROT_READ) == 0)
        #expect(mprotect(UnsafeMutableRawPointer(bitPattern: address + 11 * 4096), 2 * 4096, PROT_READ) == 0)
    }

    @Test(arguments: [false, true]) func protectedInTheMiddle(_ isShared: Bool) throws {
        let source = try source()
        if isShared {
            let mappings = try TwoMappings(pages: Self.pages)
            defer { mappings.release() }
            split(mappings.address(0))
            for page in 0..<Self.pages { mappings.fill(page, UInt8(page + 1)) }
            #expect(mappings.complete(0, count: Self.pages) == .installed)
            #expect(mappings.complete(0, count: Self.pages) == .alreadyPresent)
            #expect((0..<Self.pages).allSatisfy { byte(mappings.address($0)) == UInt8($0 + 1) })
        } else {
            let guest = try AnonymousMemory(pages: Self.pages)
            split(guest.address(0))
            let length = Self.pages * 4096
            #expect(
                guest.fault.copy(source: source.address, address: guest.address(0), lengthBytes: length, pageSize: .fourKiB) == .installed)
            #expect(guest.fault.zero(address: guest.address(0), lengthBytes: length, pageSize: .fourKiB) == .alreadyPresent)
            // What is missing now reads as zero.
            guest.release()
            #expect((0..<Self.pages).allSatisfy { byte(guest.address($0)) == UInt8($0 + 1) })
        }
    }

    @Test func unmappedInTheMiddle() throws {
        let source = try source()
        let guest = try AnonymousMemory(pages: Self.pages)
        let gone = UnsafeMutableRawPointer(bitPattern: guest.address(9))!
        // Without the UNMAP event nobody is told of it.
        #expect(munmap(gone, 2 * 4096) == 0)
        let length = Self.pages * 4096
        #expect(guest.fault.copy(source: source.address, address: guest.address(0), lengthBytes: length, pageSize: .fourKiB) == .installed)
        #expect(guest.fault.copy(source: source.address, address: guest.address(9), lengthBytes: 8192, pageSize: .fourKiB) == .unregistered)
        // The mapping's owner unmaps it whole.
        #expect(mmap(gone, 2 * 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED | 0x20, -1, 0) == gone)
        guest.release()
        #expect((0..<Self.pages).filter { byte(guest.address($0)) != UInt8($0 + 1) } == [9, 10])
    }
}
