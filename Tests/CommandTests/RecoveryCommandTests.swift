import Foundation
import Glibc
import Handoff
import HostMemory
import NativeHandoff
import PageCore
import PageFerry
import Synchronization
import TestSupport
import Testing
import Userfault

/// Daemons that are killed and started again, and what an operator sees and does meanwhile.
@Suite(
    .leavesNothing, .serialized, .enabled(if: access(Built.pageferry, X_OK) == 0 && (try? UserfaultDescriptor.supportedFeatures()) != nil))
struct RecoveryCommandTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func status(_ control: String) throws -> [[String: Any]] {
        let output = scratch.file("status")
        let answer = try Program([Built.pageferry, "status", "--control", control, "--json"], in: scratch, standardOutput: output)
        _ = answer.exitCode()
        return try #require(try JSONSerialization.jsonObject(with: Data(fileContents(output) ?? [])) as? [[String: Any]])
    }

    /// The destination loses its source; an operator sees it, and points it at the place where the next one serves.
    @Test func aPausedSessionIsSeenAndPointedElsewhere() throws {
        let bytes = 1 << 20
        let memory = try scratch.memoryFile(bytes: bytes)
        let (state, control, handoff) = (scratch.file("state"), scratch.file("control"), scratch.file("handoff"))
        func source(_ socket: String) throws -> Program {
            try Program.pageferry(
                ["source", "--memory", memory, "--listen", "unix:\(scratch.file(socket))", "--state", state, "--sessions", "1"], in: scratch
            )
        }
        let first = try source("first")
        #expect(first.says(" on "))
        let destination = try Program.pageferry(
            ["destination", "--connect", "unix:\(scratch.file("first"))", "--handoff", handoff, "--control", control, "--no-push"],
            in: scratch)
        #expect(destination.says("waiting for memory"))
        let file = try MemoryFile.create(name: "recovered", lengthBytes: bytes)
        let mapping = try MappedMemory(of: file, lengthBytes: bytes, access: .readWrite)
        var client = try HandoffClient(path: handoff)
        let userfault = try client.handOver(name: "memory", memory: mapping, file: file)
        defer { try? userfault.unregister(address: mapping.address, lengthBytes: bytes) }
        try client.ready()
        let base = UnsafePointer<UInt8>(bitPattern: mapping.address)!
        func expected(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 31 &+ index >> 12) }
        #expect(base[5000] == expected(5000))
        #expect(poll(until: { (try? status(control).first?["phase"] as? String) == "postcopy-active" }))

        first.signal(SIGKILL)
        #expect(poll(until: { (try? status(control).first?["phase"] as? String) == "postcopy-paused" }))
        let paused = try #require(try status(control).first)
        #expect((paused["pausedSeconds"] as? Double ?? -1) >= 0)
        #expect((paused["obstacle"] as? String)?.isEmpty == false)
        let second = try source("second")
        #expect(second.says("took the session"))
        let recover = try Program.pageferry(["recover", "--control", control, "--connect", "unix:\(scratch.file("second"))"], in: scratch)
        #expect(recover.exitCode() == 0, "\(recover.errorOutput)")
        for index in stride(from: 0, to: bytes, by: 4096) { #expect(base[index] == expected(index)) }
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        #expect(second.exitCode() == 0, "\(second.errorOutput)")
        withExtendedLifetime(mapping) {}
    }

    /// Nothing is pushed and nobody faults, so no answer of the kernel tells that the VMM has gone.
    @Test func aVMMThatGoesIsNoticed() throws {
        let bytes = 1 << 20
        let (address, handoff) = ("unix:\(scratch.file("source"))", scratch.file("handoff"))
        let source = try Program.pageferry(["source", "--memory", try scratch.memoryFile(bytes: bytes), "--listen", address], in: scratch)
        #expect(source.says(" on "))
        let destination = try Program.pageferry(["destination", "--connect", address, "--handoff", handoff, "--no-push"], in: scratch)
        #expect(destination.says("waiting for memory"))
        let file = try MemoryFile.create(name: "left", lengthBytes: bytes)
        let mapping = try MappedMemory(of: file, lengthBytes: bytes, access: .readWrite)
        do {
            var client = try HandoffClient(path: handoff)
            let userfault = try client.handOver(name: "memory", memory: mapping, file: file)
            try client.ready()
            #expect(UnsafePointer<UInt8>(bitPattern: mapping.address)![5000] == UInt8(truncatingIfNeeded: 5000 &* 31 &+ 5000 >> 12))
            try userfault.unregister(address: mapping.address, lengthBytes: bytes)
        }
        #expect(destination.exitCode() == 70, "\(destination.errorOutput)")
        #expect(destination.errorOutput.contains("the process whose memory was being filled has ended"))
        #expect(source.says("has ended"), "the source is told: \(source.errorOutput)")
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0)
        withExtendedLifetime(mapping) {}
    }

    @Test func aSourceListensElsewhereToo() throws {
        let memory = try scratch.memoryFile()
        let control = scratch.file("control")
        let source = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "unix:\(scratch.file("one"))", "--control", control], in: scratch)
        #expect(source.says(" on "))
        #expect(try status(control).isEmpty)
        let listen = try Program.pageferry(["recover", "--control", control, "--listen", "unix:\(scratch.file("two"))"], in: scratch)
        #expect(listen.exitCode() == 0, "\(listen.errorOutput)")
        #expect(source.says("listening on unix:\(scratch.file("two")) too"))
        let destination = try Program.pageferry(
            ["destination", "--connect", "unix:\(scratch.file("two"))", "--handoff", scratch.file("handoff")], in: scratch)
        #expect(destination.says("waiting for memory"))
        let misplaced = try Program.pageferry(["recover", "--control", control, "--connect", "unix:/nowhere"], in: scratch)
        expectFailure(of: misplaced, code: 69, says: ["no destination session"])
    }

    @Test func nobodyAnswers() throws {
        try expectRefusal(
            ["status", "--control", scratch.file("absent")], code: 69, says: ["no daemon answers", "--control"], in: scratch)
    }

    @Test func aControlSocketIsServedByOne() throws {
        let memory = try scratch.memoryFile()
        let control = scratch.file("control")
        let source = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "unix:\(scratch.file("one"))", "--control", control], in: scratch)
        #expect(poll(until: { (try? status(control)) != nil }))
        var details = stat()
        #expect(stat(control, &details) == 0)
        #expect(details.st_mode & 0o777 == 0o600)
        let other = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "unix:\(scratch.file("two"))", "--control", control], in: scratch)
        expectFailure(of: other, code: 73, says: ["control socket", control])
        #expect(source.isRunning)
    }

    /// Who sends a byte now and then, and never a line, keeps no operator waiting for long, nor the daemon's end.
    @Test func whoDripsHoldsNoOperatorUp() throws {
        let memory = try scratch.memoryFile()
        let control = scratch.file("control")
        let source = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "unix:\(scratch.file("one"))", "--control", control], in: scratch)
        #expect(poll(until: { (try? status(control)) != nil }))
        let dripping = try Dripping(path: control)
        #expect(poll(until: { dripping.count > 2 }))
        let asking = try Program.pageferry(["status", "--control", control, "--json"], in: scratch)
        #expect(asking.exitCode() == 0, "\(asking.errorOutput)")
        let another = try Dripping(path: control)
        #expect(poll(until: { another.count > 2 }))
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
        withExtendedLifetime((dripping, another)) {}
    }

    @Test func aStateDirectoryIsForOneDaemonAndOneUser() throws {
        let memory = try scratch.memoryFile()
        let state = scratch.file("state")
        let source = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "unix:\(scratch.file("one"))", "--state", state], in: scratch)
        #expect(source.says(" on "))
        let second = ["source", "--memory", memory, "--listen", "unix:\(scratch.file("two"))", "--state"]
        let other = try Program.pageferry(second + [state], in: scratch)
        expectFailure(of: other, code: 75, says: ["another daemon", state])
        let open = scratch.file("open")
        try FileManager.default.createDirectory(atPath: open, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o755])
        expectFailure(of: try Program.pageferry(second + [open], in: scratch), code: 77, says: ["secrets", "chmod 700"])
        expectFailure(of: try Program.pageferry(second + [memory], in: scratch), code: 78, says: ["no directory"])
    }
}

/// A connection to a unix socket on which bytes come without end, one at a time.
private final class Dripping: Sendable {
    private final class Progress: Sendable {
        let sent = Atomic<Int>(0)
        let isOver = Atomic<Bool>(false)
    }

    private let connection: Int32
    private let progress = Progress()
    private let thread: DedicatedThread

    init(path: String) throws {
        let connection = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(connection, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        try #require(status == 0, "the test connects to \(path)")
        self.connection = connection
        thread = DedicatedThread(name: "dripping") { [progress] in
            while !progress.isOver.load(ordering: .acquiring), send(connection, " ", 1, Int32(MSG_NOSIGNAL)) == 1 {
                progress.sent.add(1, ordering: .relaxed)
                _ = Glibc.poll(nil, 0, 100)
            }
        }
    }

    var count: Int { progress.sent.load(ordering: .relaxed) }

    deinit {
        progress.isOver.store(true, ordering: .releasing)
        thread.join()
        close(connection)
    }
}
