import CShims
import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@Suite("Userfaultfd descriptors", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct DescriptorTests {
    @Test("Opening reports its features and refuses those the kernel lacks")
    func open() throws {
        let fault = try UserfaultDescriptor(required: .sharedMemory, optional: [.removeEvents])
        #expect(fault.features.isSuperset(of: .sharedMemory))
        let status = pageferry_userfault_set_flags(fault.rawValue)
        #expect(status == 0)
        let future = UserfaultFeatures(rawValue: 1 << 62)
        #expect(throws: UserfaultError.missingFeatures(future)) { _ = try UserfaultDescriptor(required: future) }
    }

    @Test("A received descriptor is adopted with the features that are on")
    func adopt() throws {
        let fault = try UserfaultDescriptor(required: [.removeEvents, .missingSharedMemory])
        let adopted = try UserfaultDescriptor(adopting: dup(fault.rawValue))
        #expect(adopted.features == [.removeEvents, .missingSharedMemory])
        let copy = try fault.duplicated()
        #expect(copy.rawValue != fault.rawValue)
        #expect(copy.features == fault.features)
    }

    @Test("A descriptor of anything else is refused and closed")
    func wrongDescriptor() throws {
        let file = try MemoryFile.create(name: "not-a-userfaultfd", lengthBytes: 4096)
        let copy = dup(file.rawValue)
        #expect(throws: UserfaultError.notUserfault(descriptor: copy, link: "/memfd:not-a-userfaultfd (deleted)")) {
            _ = try UserfaultDescriptor(adopting: copy)
        }
        #expect(throws: UserfaultError.self) { _ = try UserfaultDescriptor(adopting: -1) }
    }

    @Test("A userfaultfd without its handshake is refused")
    func withoutHandshake() throws {
        let raw = pageferry_userfault_open(O_CLOEXEC | O_NONBLOCK)
        try #require(raw >= 0)
        #expect(throws: UserfaultError.notInitialized(descriptor: raw)) { _ = try UserfaultDescriptor(adopting: raw) }
    }

    @Test("Ranges that cannot be registered are refused")
    func badRanges() throws {
        let fault = try UserfaultDescriptor(required: .sharedMemory)
        let other = try UserfaultDescriptor(required: .sharedMemory)
        let memory = try MappedMemory(anonymousBytes: 8192)
        #expect(throws: UserfaultError.rangeRefused(address: memory.address + 1, lengthBytes: 4096, code: EINVAL)) {
            try fault.register(address: memory.address + 1, lengthBytes: 4096, modes: .missing)
        }
        let operations = try fault.register(address: memory.address, lengthBytes: 8192, modes: .missing)
        #expect(operations.isSuperset(of: [.wake, .copy, .zero]))
        #expect(throws: UserfaultError.rangeRefused(address: memory.address, lengthBytes: 8192, code: EBUSY)) {
            try other.register(address: memory.address, lengthBytes: 8192, modes: .missing)
        }
        // Any userfaultfd of the process may install into a registered range, but wakes only its own waiters.
        #expect(other.zero(address: memory.address, lengthBytes: 4096, pageSize: .fourKiB) == .installed)
        try fault.unregister(address: memory.address, lengthBytes: 8192)
        #expect(fault.zero(address: memory.address + 4096, lengthBytes: 4096, pageSize: .fourKiB) == .unregistered)
    }

    @Test("No event: nothing read, no wait")
    func noEvents() throws {
        let fault = try UserfaultDescriptor(required: [])
        var batch = UserfaultEventBatch()
        #expect(try fault.readEvents(into: &batch) == 0)
        #expect(try fault.waitForEvents(timeoutMilliseconds: 0) == false)
    }
}
