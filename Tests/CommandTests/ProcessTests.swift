import Foundation
import Glibc
import PageFerry
import StreamTransport
import TestSupport
import Testing
import Userfault

/// `pageferry source --pid`: a process of ours is stopped in the middle of its work, and its memory served. The example that goes on
/// with it elsewhere is tried in LibraryTests.
@Suite(
    .leavesNothing, .serialized,
    .enabled(
        if: access(Built.pageferry, X_OK) == 0 && access("/usr/bin/cc", X_OK) == 0 && (try? UserfaultDescriptor.supportedFeatures()) != nil)
)
struct ProcessTests {
    let scratch: Scratch
    private static let pages = 512

    init() throws { scratch = try Scratch() }

    private func compile(_ source: String, _ name: String) throws -> String {
        let program = scratch.file(name)
        let compiler = try Program(["/usr/bin/cc", "-pthread", "-o", program, source], in: scratch)
        try #require(compiler.exitCode() == 0, "\(compiler.errorOutput)")
        return program
    }

    /// A worker of Examples/process that stops itself in the middle of a step.
    private func stoppedWorker(_ name: String = "worker") throws -> Program {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        let program = try compile(root.appending(path: "Examples/process/worker.c").path, name)
        let worker = try Program([program, "\(Self.pages)", "3000", "1000"], in: scratch, standardOutput: scratch.file("\(name).out"))
        try #require(poll(until: { state(of: worker) == "T" }), "\(worker.errorOutput)")
        return worker
    }

    private func state(of program: Program) -> String {
        (fileText("/proc/\(program.process)/stat") ?? "").components(separatedBy: ") ").last.map { String($0.prefix(1)) } ?? ""
    }

    private func source(of worker: Program, _ options: [String] = []) throws -> Program {
        let source = try Program.pageferry(
            ["source", "--pid", "\(worker.process)", "--listen", "unix:\(scratch.file("socket"))", "--layout", scratch.file("layout")]
                + options,
            in: scratch)
        try #require(source.says("serving process \(worker.process)"), "\(source.errorOutput)")
        return source
    }

    private var address: StreamAddress { .unix(path: scratch.file("socket")) }

    /// A served mapping: its addresses, and where it lies in which region.
    private struct Served {
        let start: UInt64
        let count: Int
        let kind: String
        let region: Int
        let offset: Int
        let name: String
    }

    private func served() throws -> [Served] {
        let lines = (fileText(scratch.file("layout")) ?? "").split(separator: "\n")
        try #require(lines.first == "pageferry-process-layout 1")
        return lines.compactMap { line in
            let fields = line.split(separator: " ", maxSplits: 7)
            guard fields.count >= 7, fields[0] == "map", let region = Int(fields[4]) else { return nil }
            let ends = fields[1].split(separator: "-").compactMap { UInt64($0, radix: 16) }
            return Served(
                start: ends[0], count: Int(ends[1] - ends[0]), kind: String(fields[3]), region: region, offset: Int(fields[5], radix: 16)!,
                name: fields.count > 7 ? String(fields[7]) : "")
        }
    }

    private func bytes(of worker: Program, _ mapping: Served) throws -> [UInt8] {
        let memory = open("/proc/\(worker.process)/mem", O_RDONLY | O_CLOEXEC)
        defer { close(memory) }
        var bytes = [UInt8](repeating: 0, count: mapping.count)
        try #require(pread(memory, &bytes, mapping.count, off_t(mapping.start)) == mapping.count, "\(mapping)")
        return bytes
    }

    /// Whether its main thread is under the filter of system calls, or a sanitizer forbids one.
    private func isConfined(_ program: Program) -> Bool {
        (fileText("/proc/\(program.process)/status") ?? "").contains("Seccomp:\t2") || dlsym(nil, "__asan_init") != nil
            || dlsym(nil, "__tsan_init") != nil
    }

    @Test func everyByteComesAcross() throws {
        let worker = try stoppedWorker()
        let source = try source(of: worker, ["--sessions", "2"])
        #expect(poll(until: { isConfined(source) }))
        let pulled = try [PulledMemory(from: address), PulledMemory(from: address)]
        let mappings = try served()
        for memory in pulled {
            #expect(try memory.end() == nil)
            for mapping in mappings {
                #expect(memory.holds(try bytes(of: worker, mapping), region: mapping.region, at: mapping.offset), "\(mapping)")
            }
        }
        #expect(Set(mappings.map(\.kind)) == ["private", "shared"])
        #expect(mappings.contains { $0.name == "[stack]" } && mappings.contains { $0.name == "/memfd:a name with spaces (deleted)" })
        #expect(mappings.map(\.count).reduce(0, +) > 3 * Self.pages * 4096)
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
        // Nothing was done to the process.
        #expect(state(of: worker) == "T")
        worker.signal(SIGCONT)
        #expect(worker.exitCode() == 0)
        let undisturbed = try Program(
            [scratch.file("worker"), "\(Self.pages)", "3000"], in: scratch, standardOutput: scratch.file("other.out"))
        #expect(undisturbed.exitCode() == 0)
        let results = ["worker.out", "other.out"].map { fileText(scratch.file($0))?.split(separator: "\n").last }
        #expect(results[0] == results[1] && results[0]?.hasPrefix("done ") == true)
        scratch.expectNothingLeft()
    }

    /// Whether it runs for long, or is stopped again at once: what it holds from then on is not what was promised.
    @Test(arguments: [false, true]) func aProcessThatGoesOn(_ stopsAgain: Bool) throws {
        let worker = try stoppedWorker()
        let source = try source(of: worker)
        let memory = try PulledMemory(from: address, creditBytes: 0)
        let stack = try #require(try served().first { $0.name == "[stack]" })
        let expected = try bytes(of: worker, stack)
        #expect(memory.byte(region: stack.region, at: stack.offset + stack.count - 16) == expected[stack.count - 16])
        worker.signal(SIGCONT)
        if stopsAgain { worker.signal(SIGSTOP) }
        let end = try memory.end()
        guard case .peerFailed(let failure)? = end else {
            Issue.record("\(String(describing: end))")
            return
        }
        #expect(failure.text.contains("ran again") || failure.text.contains("has ended"), "\(failure.text)")
        if stopsAgain {
            expectFailure(of: source, code: 75, says: ["process \(worker.process) ran again", "stop it and start over"])
        } else {
            #expect([70, 75].contains(source.exitCode()), "\(source.errorOutput)")
        }
    }

    @Test func aProcessThatDies() throws {
        let worker = try stoppedWorker()
        let source = try source(of: worker)
        let memory = try PulledMemory(from: address, creditBytes: 0)
        worker.signal(SIGKILL)
        let end = try memory.end()
        guard case .peerFailed(let failure)? = end else {
            Issue.record("\(String(describing: end))")
            return
        }
        #expect(failure.text == "process \(worker.process) has ended, and its memory with it")
        expectFailure(of: source, code: 70, says: ["process \(worker.process) has ended"])
    }

    /// Nobody pulls yet: it is noticed nevertheless.
    @Test func aProcessThatDiesUnwatched() throws {
        let worker = try stoppedWorker()
        let source = try source(of: worker)
        worker.signal(SIGKILL)
        expectFailure(of: source, code: 70, says: ["process \(worker.process) has ended"])
        scratch.expectNothingLeft()
    }

    /// A daemon that died is replaced; the process has not run meanwhile.
    @Test func aDaemonThatDied() throws {
        let worker = try stoppedWorker()
        let state = ["--state", scratch.file("state")]
        let first = try source(of: worker, state)
        let memory = try PulledMemory(from: address, creditBytes: 0, pauseNanoseconds: 60 * seconds)
        let own = try #require(try served().first { $0.name == "[stack]" })
        let expected = try bytes(of: worker, own)
        first.signal(SIGKILL)
        #expect(first.exitCode() == 128 + SIGKILL)
        #expect(poll(until: { memory.isPaused }))
        let second = try source(of: worker, state)
        #expect(memory.holds(expected, region: own.region, at: own.offset))
        second.signal(SIGKILL)
        #expect(second.exitCode() == 128 + SIGKILL)
        // Had it run, its destination would get a mixture.
        worker.signal(SIGCONT)
        worker.signal(SIGSTOP)
        #expect(poll(until: { self.state(of: worker) == "T" }))
        let third = try Program.pageferry(
            ["source", "--pid", "\(worker.process)", "--listen", "unix:\(scratch.file("socket"))"] + state, in: scratch)
        expectFailure(of: third, code: 65, says: ["is of a process that has run since"])
    }

    @Test func whatCannotBeServedIsRefused() throws {
        let listen = ["--listen", "unix:\(scratch.file("socket"))"]
        let runs = try Program(["sleep", "1000"], in: scratch)
        try expectRefusal(
            ["source", "--pid", "\(runs.process)"] + listen, code: 75, says: ["process \(runs.process) is not stopped", "kill -STOP"],
            in: scratch)
        runs.end()
        try expectRefusal(["source", "--pid", "\(runs.process)"] + listen, code: 66, says: ["there is no process"], in: scratch)
        for (options, text) in [
            (["--memory", "/dev/shm/x"], "give one of"), (["--transport", "rdma"], "over TCP alone"),
            (["--page-size", "2M"], "goes with --memory"),
        ] { try expectRefusal(["source", "--pid", "1"] + options + listen, code: 64, says: [text], in: scratch) }
        try expectRefusal(["source", "--memory", "/dev/shm/x", "--layout", "y"] + listen, code: 64, says: ["goes with --pid"], in: scratch)
    }

    /// What somebody else brings page by page cannot be told from zeros.
    @Test func memoryThatSomebodyPages() throws {
        let text = """
            #include <fcntl.h>
            #include <linux/userfaultfd.h>
            #include <signal.h>
            #include <sys/ioctl.h>
            #include <sys/mman.h>
            #include <sys/syscall.h>
            #include <unistd.h>
            int main(void) {
                int userfault = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
                struct uffdio_api api = { .api = UFFD_API };
                char *memory = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                memory[0] = 1;
                struct uffdio_register range = { .range = { (unsigned long)memory, 65536 }, .mode = UFFDIO_REGISTER_MODE_MISSING };
                if (ioctl(userfault, UFFDIO_API, &api) < 0 || ioctl(userfault, UFFDIO_REGISTER, &range) < 0) return 1;
                raise(SIGSTOP);
                return 0;
            }
            """
        try text.write(toFile: scratch.file("paged.c"), atomically: true, encoding: .utf8)
        let paged = try Program([try compile(scratch.file("paged.c"), "paged")], in: scratch)
        try #require(poll(until: { state(of: paged) == "T" }))
        let source = try Program.pageferry(
            ["source", "--pid", "\(paged.process)", "--listen", "unix:\(scratch.file("socket"))"], in: scratch)
        expectFailure(of: source, code: 75, says: ["is registered with a userfaultfd", "wait until its pager has finished"])
    }

    @Test func aProcessOfSomebodyElse() throws {
        guard geteuid() == 0, access("/usr/bin/setpriv", X_OK) == 0 else {
            return print("skipped: a process of somebody else; needs root and setpriv")
        }
        // Somebody else must be able to start it.
        let program = scratch.file("pageferry")
        try FileManager.default.copyItem(atPath: Built.pageferry, toPath: program)
        chmod(scratch.path, 0o777)
        let worker = try stoppedWorker()
        let stranger = try Program(
            [
                "/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "source", "--pid", "\(worker.process)",
                "--listen", "unix:\(scratch.file("socket"))",
            ],
            in: scratch)
        expectFailure(of: stranger, code: 77, says: ["the memory of process \(worker.process) is kept from this user", "CAP_SYS_PTRACE"])
    }
}
