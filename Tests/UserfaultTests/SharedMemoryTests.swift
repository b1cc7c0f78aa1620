import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@Suite("Shared memory: populate mapping B, continue on A", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct SharedMemoryTests {
    @Test("A missing fault is answered by a write through B and a continue")
    func missingFault() throws {
        let mappings = try TwoMappings(pages: 4)
        defer { mappings.release() }
        let thread = FaultingThread(at: mappings.address(2) + 77)
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(2), access: []))
        #expect(thread.seen == nil)
        mappings.fill(2, 0x5a)
        #expect(mappings.complete(2) == .installed)
        #expect(thread.join() == 0x5a)
    }

    @Test("A page present in the cache faults as minor, and stays invisible until continued")
    func minorFault() throws {
        let mappings = try TwoMappings(pages: 4)
        defer { mappings.release() }
        mappings.fill(1, 0x11)
        let thread = FaultingThread(at: mappings.address(1), write: 0x12)
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(1), access: [.write, .minor]))
        #expect(mappings.complete(1) == .installed)
        #expect(thread.join() == 0x12)
        mappings.b.withBytes(4096..<8192) { #expect($0.unsafeLoad(fromByteOffset: 0, as: UInt8.self) == 0x12) }
    }

    @Test("Continuing an absent page is refused with EFAULT")
    func absentPage() throws {
        let mappings = try TwoMappings(pages: 2)
        #expect(mappings.complete(0) == .failed(code: EFAULT))
        mappings.fill(0, 1)
        #expect(mappings.complete(0, count: 2) == .partially(doneBytes: 4096, obstacle: .failed(code: EFAULT)))
    }

    @Test("A copy makes absent pages, and stops at one that the file holds already, if it is to")
    func copy() throws {
        let mappings = try TwoMappings(pages: 8)
        defer { mappings.release() }
        let source = try MappedMemory(anonymousBytes: 8 << 12)
        memset(source.pointer, 0x5a, 8 << 12)
        mappings.fill(4, 0x11)
        func copy(_ page: Int, count: Int, stopsAtPresent: Bool) -> InstallOutcome {
            mappings.fault.copy(
                source: source.address, address: mappings.address(page), lengthBytes: count << 12, pageSize: .fourKiB,
                stopsAtPresent: stopsAtPresent)
        }
        let thread = FaultingThread(at: mappings.address(2))
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(2), access: []))
        #expect(copy(0, count: 8, stopsAtPresent: true) == .partially(doneBytes: 4 << 12, obstacle: .failed(code: EEXIST)))
        #expect(thread.join() == 0x5a)
        #expect(copy(4, count: 2, stopsAtPresent: true) == .failed(code: EEXIST))
        // Stepped over, it keeps its bytes, and the others come.
        #expect(copy(4, count: 4, stopsAtPresent: false) == .installed)
        mappings.b.withBytes(0..<(8 << 12)) { bytes in
            for page in 0..<8 { #expect(bytes.unsafeLoad(fromByteOffset: page << 12, as: UInt8.self) == (page == 4 ? 0x11 : 0x5a)) }
        }
    }

    @Test("A range with pages already mapped is completed around them")
    func existingPages() throws {
        let mappings = try TwoMappings(pages: 16)
        for page in 0..<16 { mappings.fill(page, UInt8(page + 1)) }
        for page in [0, 3, 4, 9, 15] { #expect(mappings.complete(page) == .installed) }
        #expect(mappings.complete(0) == .alreadyPresent)
        #expect(mappings.complete(3, count: 2) == .alreadyPresent)
        #expect(mappings.complete(0, count: 16) == .installed)
        #expect(mappings.complete(0, count: 16) == .alreadyPresent)
        for page in 0..<16 {
            #expect(UnsafePointer<UInt8>(bitPattern: mappings.address(page))!.pointee == UInt8(page + 1))
        }
    }

    @Test("Whoever waits for a page that somebody else mapped is woken by the install that finds it present")
    func presentPageWakes() throws {
        let mappings = try TwoMappings(pages: 4)
        defer { mappings.release() }
        let threads = [1, 2].map { FaultingThread(at: mappings.address($0)) }
        var batch = UserfaultEventBatch()
        var faults = 0
        #expect(
            poll(until: {
                faults += (try? mappings.fault.readEvents(into: &batch)) ?? 0
                return faults == 2
            }))
        // Another userfaultfd of this process may install here, but wakes only its own waiters.
        let other = try UserfaultDescriptor(required: .sharedMemory)
        for page in 0..<4 { mappings.fill(page, UInt8(0x70 + page)) }
        let outcome = other.continueRange(address: mappings.address(0), lengthBytes: 4 * 4096, pageSize: .fourKiB)
        #expect(outcome == .installed)
        #expect(threads.allSatisfy { $0.seen == nil })
        #expect(mappings.complete(0, count: 4) == .alreadyPresent)
        #expect(threads.map { $0.join() } == [0x71, 0x72])
    }

    @Test("Unregistering wakes every waiting thread")
    func unregisterWakes() throws {
        let mappings = try TwoMappings(pages: 8)
        let threads = (0..<8).map { FaultingThread(at: mappings.address($0)) }
        var batch = UserfaultEventBatch()
        var faults = 0
        #expect(
            poll(until: {
                faults += (try? mappings.fault.readEvents(into: &batch)) ?? 0
                return faults == 8
            }))
        #expect(threads.allSatisfy { $0.seen == nil })
        try mappings.fault.unregister(address: mappings.a.address, lengthBytes: mappings.a.lengthBytes)
        for thread in threads { #expect(thread.join() == 0) }
        mappings.fill(0, 1)
        #expect(mappings.complete(0) == .unregistered)
    }

    @Test("An unread remove event holds installs back; the removed page then reads as what is installed next")
    func removeBeforeRetry() throws {
        let mappings = try TwoMappings(pages: 4)
        guard mappings.fault.features.contains(.removeEvents) else { return print("skipped: no remove events") }
        defer { mappings.release() }
        mappings.fill(0, 1)
        #expect(mappings.complete(0) == .installed)
        // madvise waits until its event is read, hence a thread of its own.
        let remover = RemovingThread(at: mappings.address(0), lengthBytes: 4096)
        mappings.fill(1, 2)
        #expect(try mappings.fault.waitForEvents(timeoutMilliseconds: 10_000))
        #expect(mappings.complete(1) == .retryAfterEvents)
        #expect(
            try nextEvent(mappings.fault)
                == .remove(start: mappings.address(0), end: mappings.address(1)))
        #expect(remover.join() == 0)
        #expect(poll(until: { mappings.complete(1) != .retryAfterEvents }))
        #expect(mappings.complete(1) == .alreadyPresent)
        // The guest gave the page up: what it held is in the file until a hole is punched.
        try mappings.file.punchHole(0..<4096)
        let thread = FaultingThread(at: mappings.address(0))
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(0), access: []))
        #expect(mappings.fault.zero(address: mappings.address(0), lengthBytes: 4096, pageSize: .fourKiB) == .installed)
        #expect(thread.join() == 0)
    }

    @Test("Unregistering lets nobody go who waits for its event to be read; that somebody does can be told")
    func removeUnderUnregister() throws {
        let mappings = try TwoMappings(pages: 4)
        guard mappings.fault.features.contains(.removeEvents) else { return print("skipped: no remove events") }
        func isHeldBack() -> Bool { mappings.fault.hasUnreadChanges }
        #expect(!isHeldBack())
        let remover = RemovingThread(at: mappings.address(0), lengthBytes: 4096)
        #expect(try mappings.fault.waitForEvents(timeoutMilliseconds: 10_000))
        try mappings.fault.unregister(address: mappings.address(0), lengthBytes: 4 * 4096)
        #expect(isHeldBack())
        #expect(try nextEvent(mappings.fault) == .remove(start: mappings.address(0), end: mappings.address(1)))
        #expect(remover.join() == 0)
        #expect(poll(until: { !isHeldBack() }))
    }

    @Test("The zero operation works on shared memory, also around present pages")
    func zeroPages() throws {
        let mappings = try TwoMappings(pages: 4)
        mappings.fill(1, 9)
        #expect(mappings.complete(1) == .installed)
        #expect(mappings.fault.zero(address: mappings.address(0), lengthBytes: 4 * 4096, pageSize: .fourKiB) == .installed)
        #expect((0..<4).map { UnsafePointer<UInt8>(bitPattern: mappings.address($0))!.pointee } == [0, 9, 0, 0])
    }

    @Test("Punching a hole through the file makes no event, and the page faults again")
    func punchedHole() throws {
        let mappings = try TwoMappings(pages: 2)
        defer { mappings.release() }
        mappings.fill(0, 7)
        #expect(mappings.complete(0) == .installed)
        try mappings.file.punchHole(0..<4096)
        #expect(try mappings.fault.waitForEvents(timeoutMilliseconds: 0) == false)
        let thread = FaultingThread(at: mappings.address(0))
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(0), access: []))
        mappings.fill(0, 8)
        #expect(mappings.complete(0) == .installed)
        #expect(thread.join() == 8)
    }

    @Test("A poisoned page ends whoever touches it, in place of wrong bytes")
    func poison() async throws {
        guard try UserfaultDescriptor.supportedFeatures().contains(.poison) else {
            return print("skipped: no UFFDIO_POISON before Linux 6.6")
        }
        await #expect(processExitsWith: .signal(SIGBUS)) {
            let mappings = try TwoMappings(pages: 4)
            mappings.fill(1, 5)
            guard mappings.complete(1) == .installed,
                mappings.fault.poison(address: mappings.address(0), lengthBytes: 4 * 4096, pageSize: .fourKiB) == .installed,
                UnsafePointer<UInt8>(bitPattern: mappings.address(1))!.pointee == 5
            else { exit(1) }
            let byte = UnsafePointer<UInt8>(bitPattern: mappings.address(2))!.pointee
            mappings.release()
            exit(Int32(byte))
        }
    }

    @Test("Many threads, many faults: each sees its page, whatever order and however they overlap")
    func manyFaults() throws {
        let mappings = try TwoMappings(pages: 256)
        defer { mappings.release() }
        let threads = (0..<32).map { FaultingThread(at: mappings.address($0 * 8 + 3)) }
        var batch = UserfaultEventBatch()
        var served = 0
        #expect(
            poll(until: {
                guard let count = try? mappings.fault.readEvents(into: &batch) else { return false }
                for index in 0..<count {
                    guard case .pageFault(let address, _) = batch[index] else { continue }
                    let page = Int(address - mappings.a.address) / 4096
                    let first = page & ~7
                    for other in first..<first + 8 { mappings.fill(other, UInt8(truncatingIfNeeded: other)) }
                    if mappings.complete(page) == .installed, mappings.complete(first, count: 8) == .installed { served += 1 }
                }
                return served == 32
            }))
        for (index, thread) in threads.enumerated() {
            #expect(thread.join() == UInt8(truncatingIfNeeded: index * 8 + 3))
        }
    }
}

@Suite("hugetlbfs, 2 MiB", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct HugePageTests {
    @Test("Missing and minor faults are answered by continue; a zero operation does not exist")
    func faults() throws {
        guard let reserve = HugePageReserve(count: 4) else { return }
        let mappings = try TwoMappings(pages: 3, pageSize: .twoMiB)
        defer { mappings.release() }
        #expect(mappings.file.pageSize == .twoMiB)
        #expect(mappings.file.isHugetlbfs == true)
        let thread = FaultingThread(at: mappings.address(1) + 1_000_000)
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(1), access: []))
        mappings.fill(1, 0x21)
        #expect(mappings.complete(1) == .installed)
        #expect(thread.join() == 0x21)
        #expect(mappings.complete(1) == .alreadyPresent)

        mappings.fill(2, 0x22)
        let second = FaultingThread(at: mappings.address(2))
        #expect(try nextEvent(mappings.fault) == .pageFault(address: mappings.address(2), access: .minor))
        #expect(mappings.complete(1, count: 2) == .installed)
        #expect(second.join() == 0x22)

        let zero = mappings.fault.zero(address: mappings.address(0), lengthBytes: PageSize.twoMiB.bytes, pageSize: .twoMiB)
        #expect(zero == .failed(code: EINVAL))
        // Writing zeros through B does it.
        mappings.fill(0, 0)
        #expect(mappings.complete(0, count: 3) == .installed)
        withExtendedLifetime(reserve) {}
    }
}
