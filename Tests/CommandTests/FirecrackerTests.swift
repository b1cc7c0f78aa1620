import Foundation
import Glibc
import TestSupport
import Testing
import Userfault

/// `pageferry destination --handoff firecracker:PATH` with a process that behaves as Firecracker does, in all its field sets, and
/// what becomes of it when somebody dies. That process compares every byte itself.
@Suite(
    .leavesNothing, .serialized, .enabled(if: access(Built.pageferry, X_OK) == 0 && (try? UserfaultDescriptor.supportedFeatures()) != nil))
struct FirecrackerTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private var handoff: String { scratch.file("firecracker") }
    private var sourceAddress: String { "unix:\(scratch.file("source"))" }

    private func source(_ memory: String, _ options: [String] = []) throws -> Program {
        let source = try Program.pageferry(["source", "--memory", memory, "--listen", sourceAddress] + options, in: scratch)
        try #require(source.says(" on "), "\(source.errorOutput)")
        return source
    }

    private func destination(_ options: [String] = []) throws -> Program {
        try Program.pageferry(["destination", "--connect", sourceAddress, "--handoff", "firecracker:\(handoff)"] + options, in: scratch)
    }

    private func machine(_ memory: String, _ options: [String] = [], output: String = "/dev/null") throws -> Program {
        try Program(["\(Built.directory)/FirecrackerVMM", handoff, memory] + options, in: scratch, standardOutput: output)
    }

    private func end(_ source: Program) {
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
    }

    @Test(arguments: [
        [], ["fields=old", "descriptors=2", "regions=1"], ["fields=oldest", "descriptors=3", "regions=5", "close=1"],
        ["balloon=400", "regions=3", "threads=3"],
    ])
    func aSnapshotComesBack(_ options: [String]) throws {
        let memory = try scratch.memoryFile(bytes: 24 << 20)
        let source = try source(memory, ["--sessions", "1"])
        let destination = try destination()
        #expect(destination.says("waiting for memory"))
        let machine = try machine(memory, options)
        #expect(machine.exitCode() == 0, "\(machine.errorOutput)")
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
    }

    @Test func hugePages() throws {
        guard let reserve = HugePageReserve(count: 24) else { return }
        let memory = try scratch.memoryFile(bytes: 32 << 20)
        let source = try source(memory, ["--sessions", "1", "--page-size", "2M"])
        let destination = try destination()
        #expect(destination.says("waiting for memory"))
        let machine = try machine(memory, ["page=2097152", "balloon=4"])
        #expect(machine.exitCode() == 0, "\(machine.errorOutput)")
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
        _ = consume reserve
    }

    @Test func pagesOfAnotherSize() throws {
        let memory = try scratch.memoryFile(bytes: 4 << 20)
        let source = try source(memory, ["--page-size", "2M"])
        let destination = try destination()
        #expect(destination.says("waiting for memory"))
        let machine = try machine(memory)
        expectFailure(of: destination, code: 78, says: ["2048 KiB pages on the source and 4 KiB pages here", "--page-size"])
        #expect(machine.isRunning, "it waits for its memory: whoever started it must end it")
        #expect(source.isRunning)
        machine.end()
        end(source)
        try expectRefusal(["source", "--memory", memory, "--page-size", "8K"], code: 64, says: ["--page-size takes 4K or 2M"], in: scratch)
        try expectRefusal(["source", "--qmp", "x", "--page-size", "4K"], code: 64, says: ["--page-size goes with --memory"], in: scratch)
    }

    /// Nobody fills its memory any more, and it has closed its connection long ago.
    @Test func itsEndIsNoticed() throws {
        let memory = try scratch.memoryFile(bytes: 8 << 20)
        let source = try source(memory)
        let destination = try destination(["--no-push", "--window", "4K"])
        #expect(destination.says("waiting for memory"))
        let output = scratch.file("machine")
        let machine = try machine(memory, ["close=1", "touch=10", "linger=1"], output: output)
        #expect(poll(until: { fileText(output)?.contains("done") == true }), "\(machine.errorOutput)")
        #expect(destination.isRunning)
        machine.end()
        #expect(destination.exitCode() == 70, "\(destination.errorOutput)")
        #expect(destination.errorOutput.contains("the process whose memory was being filled has ended"))
        #expect(source.says("has ended"), "the source is told: \(source.errorOutput)")
    }

    /// Firecracker hands over once and cannot be asked again: the next daemon takes the userfaultfd from the process itself.
    @Test(arguments: [0, 30]) func aDaemonThatDied(_ touchedFirst: Int) throws {
        let memory = try scratch.memoryFile(bytes: 32 << 20)
        let source = try source(memory)
        let state = scratch.file("state")
        let destination = try destination(["--no-push", "--window", "4K", "--state", state])
        #expect(destination.says("waiting for memory"))
        // Slow enough to be in the middle: what is not pushed comes fault by fault.
        let machine = try machine(memory, ["threads=4", "regions=3"])
        let isUnderWay = poll(until: {
            let line = fileText("/proc/\(machine.process)/status")?.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
            let residentKiB = line?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
            return residentKiB > touchedFirst * 32_768 / 100 && FileManager.default.fileExists(atPath: "\(state)/destination.json")
        })
        #expect(isUnderWay)
        destination.signal(SIGKILL)
        #expect(destination.exitCode() == 128 + SIGKILL)
        let next = try self.destination(["--state", state])
        #expect(next.says("taking over from a daemon that died; its memory was kept"), "\(next.errorOutput)")
        #expect(machine.exitCode() == 0, "\(machine.errorOutput)")
        #expect(next.exitCode() == 0, "\(next.errorOutput)")
        #expect(source.isRunning)
        #expect(!FileManager.default.fileExists(atPath: "\(state)/destination.json"))
    }

    /// A machine that has ended since is not mistaken for one that got its number.
    @Test func aMachineThatEndedMeanwhile() throws {
        let memory = try scratch.memoryFile(bytes: 8 << 20)
        let source = try source(memory)
        let state = scratch.file("state")
        let destination = try destination(["--no-push", "--window", "4K", "--state", state])
        #expect(destination.says("waiting for memory"))
        let machine = try machine(memory, ["touch=10", "linger=1"])
        #expect(poll(until: { FileManager.default.fileExists(atPath: "\(state)/destination.json") }))
        destination.signal(SIGKILL)
        #expect(destination.exitCode() == 128 + SIGKILL)
        machine.end()
        let next = try self.destination(["--state", state])
        expectFailure(of: next, code: 70, says: ["the Firecracker whose memory was being filled has ended"])
        #expect(source.isRunning)
    }

    @Test func aHandoffThatIsNone() throws {
        let memory = try scratch.memoryFile(bytes: 1 << 20)
        let source = try source(memory)
        let destination = try destination()
        #expect(destination.says("waiting for memory"))
        let stranger = try Program(
            [
                "/usr/bin/python3", "-c",
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.send(b'GET / HTTP/1.1')", handoff,
            ],
            in: scratch)
        expectFailure(of: destination, code: 65, says: ["does not begin as a JSON array does"])
        #expect(stranger.exitCode() == 0)
        #expect(source.isRunning)
        end(source)
        try expectRefusal(
            ["destination", "--connect", sourceAddress, "--handoff", "firecracker:"], code: 64, says: ["--handoff"], in: scratch)
    }
}
