import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@Suite("Anonymous memory: copy, move, zero", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct AnonymousMemoryTests {
    @Test("A fault is answered by copy; present pages are stepped over and keep their bytes")
    func copy() throws {
        let guest = try AnonymousMemory(pages: 8)
        defer { guest.release() }
        let source = try MappedMemory(anonymousBytes: 8 * 4096)
        memset(source.pointer, 0x31, 8 * 4096)
        let thread = FaultingThread(at: guest.address(3))
        #expect(try nextEvent(guest.fault) == .pageFault(address: guest.address(3), access: []))
        #expect(
            guest.fault.copy(source: source.address, address: guest.address(3), lengthBytes: 4096, pageSize: .fourKiB)
                == .installed)
        #expect(thread.join() == 0x31)
        memset(source.pointer, 0x32, 8 * 4096)
        #expect(
            guest.fault.copy(source: source.address, address: guest.address(0), lengthBytes: 8 * 4096, pageSize: .fourKiB)
                == .installed)
        #expect(
            guest.fault.copy(source: source.address, address: guest.address(0), lengthBytes: 8 * 4096, pageSize: .fourKiB)
                == .alreadyPresent)
        #expect(
            (0..<8).map { UnsafePointer<UInt8>(bitPattern: guest.address($0))!.pointee }
                == [0x32, 0x32, 0x32, 0x31, 0x32, 0x32, 0x32, 0x32])
    }

    @Test("A source that is not mapped is refused, without harm")
    func badSource() throws {
        let guest = try AnonymousMemory(pages: 1)
        #expect(
            guest.fault.copy(source: 4096, address: guest.address(0), lengthBytes: 4096, pageSize: .fourKiB)
                == .failed(code: EFAULT))
    }

    @Test("Move takes the pages away from their source; a source that was never written is refused")
    func move() throws {
        let guest = try AnonymousMemory(pages: 8)
        guard guest.fault.features.contains(.move) else { return print("skipped: no UFFDIO_MOVE before Linux 6.8") }
        defer { guest.release() }
        let source = try MappedMemory(anonymousBytes: 8 * 4096)
        memset(source.pointer, 0x41, 4 * 4096)
        let thread = FaultingThread(at: guest.address(1) + 5)
        #expect(try nextEvent(guest.fault) == .pageFault(address: guest.address(1), access: []))
        #expect(
            guest.fault.move(source: source.address, address: guest.address(0), lengthBytes: 4 * 4096, pageSize: .fourKiB)
                == .installed)
        #expect(thread.join() == 0x41)
        #expect(source.isZero(firstPage: 0, count: 4) == true)
        source.withMutableBytes(7 * 4096..<8 * 4096) { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
        let hole = try MappedMemory(anonymousBytes: 4096)
        #expect(
            guest.fault.move(source: hole.address, address: guest.address(5), lengthBytes: 4096, pageSize: .fourKiB)
                == .failed(code: ENOENT))
    }

    @Test("Zero answers faults")
    func zero() throws {
        let guest = try AnonymousMemory(pages: 4)
        defer { guest.release() }
        let thread = FaultingThread(at: guest.address(2))
        #expect(try nextEvent(guest.fault) == .pageFault(address: guest.address(2), access: []))
        #expect(guest.fault.zero(address: guest.address(0), lengthBytes: 4 * 4096, pageSize: .fourKiB) == .installed)
        #expect(thread.join() == 0)
        #expect(guest.fault.zero(address: guest.address(0), lengthBytes: 4 * 4096, pageSize: .fourKiB) == .alreadyPresent)
    }

    @Test("A removed page faults again")
    func remove() throws {
        let guest = try AnonymousMemory(pages: 2)
        defer { guest.release() }
        #expect(guest.fault.zero(address: guest.address(0), lengthBytes: 8192, pageSize: .fourKiB) == .installed)
        let remover = RemovingThread(at: guest.address(0), lengthBytes: 8192)
        #expect(try nextEvent(guest.fault) == .remove(start: guest.address(0), end: guest.address(2)))
        #expect(remover.join() == 0)
        let thread = FaultingThread(at: guest.address(1), write: 3)
        #expect(try nextEvent(guest.fault) == .pageFault(address: guest.address(1), access: .write))
        #expect(guest.fault.zero(address: guest.address(1), lengthBytes: 4096, pageSize: .fourKiB) == .installed)
        #expect(thread.join() == 3)
    }

    @Test("Unregistering leaves no thread asleep, not even one that faults at that very moment")
    func unregisterUnderFaults() throws {
        for round in 0..<100 {
            let guest = try AnonymousMemory(pages: 4 << 10)
            let threads = (0..<2).map { SweepingThread(from: guest.address($0), pages: 2 << 10, strideBytes: 8192) }
            #expect(try guest.fault.waitForEvents(timeoutMilliseconds: 10_000))
            // A few pages each, so that the threads are between two faults as often as in one.
            var batch = UserfaultEventBatch()
            for _ in 0..<(8 + round % 40) {
                guard try guest.fault.waitForEvents(timeoutMilliseconds: 10_000) else { break }
                for index in 0..<(try guest.fault.readEvents(into: &batch)) {
                    guard case .pageFault(let address, _) = batch[index] else { continue }
                    _ = guest.fault.zero(address: address, lengthBytes: 4096, pageSize: .fourKiB)
                }
            }
            try guest.fault.unregister(address: guest.address(0), lengthBytes: guest.memory.lengthBytes)
            let haveEnded = poll { threads.allSatisfy { $0.hasEnded } }
            #expect(haveEnded, "round \(round)")
            try guest.fault.wake(address: guest.address(0), lengthBytes: guest.memory.lengthBytes)
            for thread in threads { thread.join() }
            if !haveEnded { return }
        }
    }
}
