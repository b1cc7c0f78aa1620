import Glibc
import Testing

/// A suite's promise that each of its tests gives back what it took of the host: descriptors, mappings of memory files,
/// rings and devices, named threads, child processes and theirs, files in /dev/shm, RDMA registrations.
///
/// It compares the whole process before and after each test case, so tests run one after the other
/// (`swift test --no-parallel`). Memory on the heap is for `make asan`.
public struct LeakCheck: SuiteTrait, TestTrait, TestScoping {
    public var isRecursive: Bool { true }

    public func provideScope(for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void) async throws {
        let before = ProcessResources.now()
        defer { Self.expectNothing(since: before, test) }
        try await function()
    }

    private static func expectNothing(since before: ProcessResources, _ test: Test) {
        // What ends on a thread of its own, or in another process, may take a moment.
        var leaks: [String] = []
        for _ in 0..<500 {
            reapOrphans()
            leaks = ProcessResources.now().leaks(since: before)
            if leaks.isEmpty { return }
            _ = poll(nil, 0, 5)
        }
        for leak in leaks { Issue.record("\(test.name) left \(leak)", sourceLocation: test.sourceLocation) }
    }

    /// Ended children nobody has waited for: those that came to us when their parent was killed.
    private static func reapOrphans() {
        while waitpid(-1, nil, WNOHANG) > 0 {}
    }
}

extension Trait where Self == LeakCheck {
    /// Fails each test that leaves something of this process, or a process, behind.
    public static var leavesNothing: Self { Self() }
}
