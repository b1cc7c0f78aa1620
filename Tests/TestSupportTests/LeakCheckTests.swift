import Glibc
import HostMemory
import PageFerry
import Testing

@testable import TestSupport

/// A check that finds nothing proves nothing: each kind of leak is made, found, and gone once it is mended.
@Suite(.leavesNothing, .serialized) struct LeakCheckTests {
    private func leaks(since before: ProcessResources) -> [String] { ProcessResources.now().leaks(since: before) }

    /// Ten seconds at most.
    private func waitUntil(_ condition: () -> Bool) {
        for _ in 0..<1_000 {
            if condition() { return }
            _ = poll(nil, 0, 10)
        }
    }

    @Test func eachKindIsFound() throws {
        let before = ProcessResources.now()
        #expect(leaks(since: before) == [])

        let descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC)
        #expect(leaks(since: before) == ["descriptor \(descriptor): /dev/null"])
        close(descriptor)
        #expect(leaks(since: before) == [])

        do {
            let mapping = try MappedMemory(of: MemoryFile.create(name: "left", lengthBytes: 8192), lengthBytes: 8192, access: .readWrite)
            #expect(leaks(since: before) == ["mapping: 8192 bytes of /memfd:left (deleted)"])
            withExtendedLifetime(mapping) {}
        }
        #expect(leaks(since: before) == [])

        let mailbox = Mailbox<Int>()
        let withMailbox = ProcessResources.now()
        let thread = DedicatedThread(name: "left") { _ = mailbox.next() }
        waitUntil { !leaks(since: withMailbox).isEmpty }
        #expect(leaks(since: withMailbox).allSatisfy { $0.hasPrefix("thread ") && $0.hasSuffix(": left") })
        #expect(leaks(since: withMailbox).count == 1)
        mailbox.post(1)
        thread.join()

        let path = "/dev/shm/left-\(getpid())"
        close(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0o600))
        #expect(leaks(since: withMailbox) == ["file: \(path)"])
        unlink(path)
        #expect(leaks(since: withMailbox) == [])
    }

    /// A process whose parent has ended, as a VMM's when its daemon is killed, is found too.
    @Test func orphansAreFound() throws {
        let before = ProcessResources.now()
        var ends: [Int32] = [0, 0]
        let status = pipe(&ends)
        try #require(status == 0)
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // The shell gives what it starts in the background /dev/null to read; by another number it gets the pipe.
        posix_spawn_file_actions_adddup2(&actions, ends[0], 9)
        let arguments: [String] = ["/bin/sh", "-c", "/bin/cat <&9 & exit 0"]
        var shell = arguments.map { strdup($0) } + [nil]
        defer { for string in shell { free(string) } }
        var parent: pid_t = 0
        let code = posix_spawn(&parent, "/bin/sh", &actions, nil, &shell, environ)
        try #require(code == 0)
        waitpid(parent, nil, 0)
        close(ends[0])
        func orphans() -> [String] { leaks(since: before).filter { $0.hasPrefix("process ") } }
        #expect(orphans().count == 1)
        // The end of its input ends it.
        close(ends[1])
        waitUntil { orphans().isEmpty }
        #expect(orphans() == [])
    }
}
