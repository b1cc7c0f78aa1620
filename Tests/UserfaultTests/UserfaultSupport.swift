import Glibc
import HostMemory
import PageCore
import Testing
import Userfault

/// Whether this host lets the tests have userfaultfds; prints the reason when not.
let userfaultIsPermitted: Bool = {
    do {
        _ = try UserfaultDescriptor.supportedFeatures()
        return true
    } catch {
        print("skipped: \(error)")
        return false
    }
}()

/// One memory file, mapped twice: A faults, B is written.
struct TwoMappings: ~Copyable {
    let file: MemoryFile
    let a: MappedMemory
    let b: MappedMemory
    let fault: UserfaultDescriptor
    let pageSize: PageSize

    init(pages: Int, pageSize: PageSize = .fourKiB, modes: UserfaultModes = [.missing, .minor]) throws {
        let file = try MemoryFile.create(name: "userfault-test", lengthBytes: pages * pageSize.bytes, pageSize: pageSize)
        let a = try MappedMemory(of: file, lengthBytes: pages * pageSize.bytes, access: .readWrite)
        let b = try MappedMemory(of: file, lengthBytes: pages * pageSize.bytes, access: .readWrite)
        let fault = try UserfaultDescriptor(
            required: pageSize == .twoMiB ? .hugetlbfs : .sharedMemory, optional: [.removeEvents])
        try fault.register(address: a.address, lengthBytes: a.lengthBytes, modes: modes)
        self.file = file
        self.a = a
        self.b = b
        self.fault = fault
        self.pageSize = pageSize
    }

    func address(_ page: Int) -> UInt { a.address + UInt(page << pageSize.shift) }

    /// Fills page `page` through B.
    func fill(_ page: Int, _ byte: UInt8) {
        memset(b.pointer + page << pageSize.shift, Int32(byte), pageSize.bytes)
    }

    func complete(_ page: Int, count: Int = 1) -> InstallOutcome {
        fault.continueRange(address: address(page), lengthBytes: count << pageSize.shift, pageSize: pageSize)
    }

    /// Ends every wait, so that no test leaves a thread behind.
    func release() { try? fault.unregister(address: a.address, lengthBytes: a.lengthBytes) }
}

/// Anonymous memory registered for missing faults.
struct AnonymousMemory: ~Copyable {
    let memory: MappedMemory
    let fault: UserfaultDescriptor

    init(pages: Int) throws {
        let memory = try MappedMemory(anonymousBytes: pages * 4096)
        let fault = try UserfaultDescriptor(required: [], optional: [.removeEvents, .move])
        try fault.register(address: memory.address, lengthBytes: memory.lengthBytes, modes: .missing)
        self.memory = memory
        self.fault = fault
    }

    func address(_ page: Int) -> UInt { memory.address + UInt(page * 4096) }

    func release() { try? fault.unregister(address: memory.address, lengthBytes: memory.lengthBytes) }
}

/// Waits for the next event, ten seconds at most.
func nextEvent(_ fault: borrowing UserfaultDescriptor) throws -> UserfaultEvent? {
    var batch = UserfaultEventBatch()
    guard try fault.waitForEvents(timeoutMilliseconds: 10_000) else { return nil }
    guard try fault.readEvents(into: &batch) > 0 else { return nil }
    return batch[0]
}
