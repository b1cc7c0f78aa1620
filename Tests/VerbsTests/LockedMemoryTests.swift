import Testing
import Verbs

@Suite("What RDMA asks of this host") struct LockedMemoryTests {
    @Test("The limit and what is pinned are read from the kernel")
    func limits() {
        if let limit = LockedMemory.limitBytes { #expect(limit >= 0) }
        #expect(LockedMemory.pinnedBytes >= 0)
        if LockedMemory.limitBytes == nil { #expect(LockedMemory.isUnbounded) }
    }

    @Test("Every status of verbs has its name, and unknown ones count as general")
    func statuses() {
        #expect(WorkStatus(code: 10) == .remoteAccess)
        #expect(WorkStatus(code: 12) == .retryExceeded)
        #expect(WorkStatus(code: 4000) == .general)
        #expect(Set(WorkStatus.allCases.map(\.description)).count == WorkStatus.allCases.count)
    }

    @Test("A host without RDMA has an empty list, not an error")
    func devices() throws {
        _ = try DeviceDescription.all()
    }
}
