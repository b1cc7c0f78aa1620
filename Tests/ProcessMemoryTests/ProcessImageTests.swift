import Foundation
import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing

@testable import ProcessMemory

/// A process that waits for input, which never comes; ended with this value.
private final class Child {
    let process: pid_t
    private let input: Int32

    init() throws {
        var ends: [Int32] = [0, 0]
        try #require(pipe(&ends) == 0)
        _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC)
        input = ends[1]
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[0], 0)
        posix_spawn_file_actions_addclose(&actions, ends[0])
        var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("cat"), nil]
        defer { free(arguments[0]) }
        var child: pid_t = 0
        let status = posix_spawnp(&child, "cat", &actions, nil, &arguments, environ)
        close(ends[0])
        try #require(status == 0)
        process = child
        try #require(poll { isCat && state == "S" })
    }

    deinit {
        close(input)
        kill(process, SIGKILL)
        while waitpid(process, nil, 0) < 0 && errno == EINTR {}
    }

    private var isCat: Bool { (fileText("/proc/\(process)/comm") ?? "") == "cat\n" }

    var state: String {
        let text = fileText("/proc/\(process)/stat") ?? ""
        return text.components(separatedBy: ") ").last.map { String($0.prefix(1)) } ?? ""
    }

    func stop() {
        kill(process, SIGSTOP)
        #expect(poll { state == "T" })
    }

    func goOn() { kill(process, SIGCONT) }

    /// Bytes of its memory.
    func bytes(at address: UInt64, count: Int) -> [UInt8] {
        let memory = open("/proc/\(process)/mem", O_RDONLY | O_CLOEXEC)
        defer { close(memory) }
        var bytes = [UInt8](repeating: 0, count: count)
        #expect(pread(memory, &bytes, count, off_t(address)) == count)
        return bytes
    }
}

/// Polls for a minute at most.
private func poll(until condition: () -> Bool) -> Bool {
    for _ in 0..<12_000 {
        if condition() { return true }
        _ = Glibc.poll(nil, 0, 5)
    }
    return condition()
}

@Suite(.leavesNothing, .serialized) struct ProcessImageTests {
    private func refusal(_ process: Int32) -> ProcessMemoryError? {
        do {
            _ = try ProcessImage(process: process)
            return nil
        } catch { return error }
    }

    @Test func memoryIsReadAsItIs() throws {
        let child = try Child()
        child.stop()
        let image = try ProcessImage(process: child.process)
        #expect(image.layout.count > 2)
        var compared = 0
        for (index, region) in image.layout.regions.enumerated() where region.name.hasPrefix("private") {
            let start = try #require(UInt64(region.name.dropFirst(8).split(separator: "-")[0], radix: 16))
            for page in 0..<region.pageCount {
                let range = PageRange(region: RegionIndex(index), first: page, count: 1)
                var read = [UInt8](repeating: 1, count: 4096)
                if image.knownZeros(in: range) != nil {
                    read = [UInt8](repeating: 0, count: 4096)
                } else {
                    var span = read.mutableSpan
                    var bytes = span.mutableBytes
                    try image.read(range, into: &bytes)
                }
                #expect(read == child.bytes(at: start + UInt64(page) << 12, count: 4096), "page \(page) of \(region.name)")
                compared += 1
            }
        }
        #expect(compared > 30)
        try image.verifyStopped()
    }

    /// However short it ran, and although it is stopped again.
    @Test func aProcessThatRan() throws {
        let child = try Child()
        child.stop()
        let image = try ProcessImage(process: child.process)
        let standing = image.standing
        #expect(try ProcessImage(process: child.process).standing == standing, "another daemon finds the same")
        child.goOn()
        #expect(poll { child.state == "S" })
        child.stop()
        #expect(throws: ProcessMemoryError.ran(child.process)) { try image.verifyStopped() }
        var page = [UInt8](repeating: 0, count: 4096)
        var span = page.mutableSpan
        var bytes = span.mutableBytes
        do {
            try image.read(PageRange(region: 0, first: 0, count: 1), into: &bytes)
            Issue.record("what it holds now is not what it held")
        } catch { #expect(error.description.contains("ran again")) }
        #expect(try ProcessImage(process: child.process).standing != standing)
    }

    @Test func aProcessThatEnds() throws {
        let image: ProcessImage
        let process: pid_t
        do {
            let child = try Child()
            child.stop()
            image = try ProcessImage(process: child.process)
            process = child.process
            kill(process, SIGKILL)
            #expect(poll { child.state == "Z" })
            #expect(throws: ProcessMemoryError.ended(process)) { try image.verifyStopped() }
            #expect(refusal(process) == .ended(process))
        }
        #expect(throws: ProcessMemoryError.ended(process)) { try image.verifyStopped() }
        #expect(refusal(process) == .noProcess(process))
    }

    @Test func whoIsNotStoppedIsRefused() throws {
        let child = try Child()
        #expect(refusal(child.process) == .notStopped(child.process, thread: child.process, state: "S"))
        guard case .notStopped = refusal(getpid()) else {
            Issue.record("nobody serves itself")
            return
        }
        for none in [0, -1, Int32.max] { #expect(refusal(none) == .noProcess(none)) }
    }

    /// Stopped with its cgroup: no thread is in state T then.
    @Test func aFrozenProcess() throws {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].filter { access("\($0)/cgroup.procs", W_OK) == 0 }
        guard let root = roots.first else { return print("skipped: a frozen process; there are no cgroups of version 2 here") }
        let group = "\(root)/pageferry-test-\(getpid())"
        try #require(mkdir(group, 0o755) == 0)
        defer { #expect(poll { rmdir(group) == 0 }) }
        do {
            let child = try Child()
            write("\(child.process)", to: "\(group)/cgroup.procs")
            write("1", to: "\(group)/cgroup.freeze")
            #expect(poll { (fileText("\(group)/cgroup.events") ?? "").contains("frozen 1") })
            let image = try ProcessImage(process: child.process)
            try image.verifyStopped()
            write("0", to: "\(group)/cgroup.freeze")
            // It waits for input, and is put on a processor to go on with that.
            #expect(poll { (try? image.verifyStopped()) == nil }, "it runs again")
        }
    }

    private func write(_ text: String, to path: String) {
        let file = open(path, O_WRONLY | O_CLOEXEC)
        defer { close(file) }
        #expect(file >= 0 && Glibc.write(file, text, text.utf8.count) == text.utf8.count, "\(path)")
    }
}
