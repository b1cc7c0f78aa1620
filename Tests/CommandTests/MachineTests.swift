import Foundation
import Glibc
import Handoff
import TestSupport
import Testing

/// Real QEMUs with 64 MiB of firmware's guest, moved by the real commands.
@Suite(.leavesNothing, .serialized, .enabled(if: Built.canMigrate)) struct MachineTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// The source was not disturbed: it waits on, ends upon SIGTERM, and its machine runs.
    private func expectUndisturbed(_ source: Program, _ qemu: Program, location: SourceLocation = #_sourceLocation) throws {
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0, "\(source.errorOutput)", sourceLocation: location)
        #expect(try scratch.status("source") == "running", sourceLocation: location)
        qemu.end()
        scratch.expectNothingLeft(except: ["source.qmp"], location: location)
    }

    @Test func wholeMigration() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source(["--json", scratch.file("source.json")])
        let destination = try Program.pageferry(
            ["destination", "--connect", try source.address(), "--json", scratch.file("destination.json"), "--"]
                + scratch.machine("destination"), in: scratch)
        #expect(destination.says("every page is here"), "\(destination.errorOutput) \(source.errorOutput)")
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
        #expect(source.says("every page is at the destination"))
        #expect(try scratch.status("destination") == "running")
        #expect(try scratch.status("source") != "running", "the guest never runs twice")
        // The command stays with the machine it started, and ends with it.
        #expect(destination.isRunning)
        try QMPClient(connectingTo: "\(scratch.file("destination")).qmp").execute("quit")
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        for side in ["source", "destination"] {
            let report = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(filePath: scratch.file("\(side).json"))))
            let fields = try #require(report as? [String: Any])
            #expect(fields["phase"] as? String == "completed")
            #expect(fields["side"] as? String == side)
            #expect(fields["missingPages"] as? Int == 0)
        }
        qemu.end()
        scratch.expectNothingLeft(except: ["source.qmp"])
    }

    @Test func memorySizesDiffer() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        let destination = try Program.pageferry(
            ["destination", "--connect", try source.address(), "--"] + scratch.machine("destination", megabytes: 128), in: scratch)
        expectFailure(of: destination, code: 78, says: ["64 MiB", "128 MiB", "give both machines the same memory size"])
        #expect(source.says("refused"))
        try expectUndisturbed(source, qemu)
    }

    @Test func destinationProgramMissing() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        var command = scratch.machine("destination")
        command[0] = scratch.file("no-such-qemu")
        let destination = try Program.pageferry(["destination", "--connect", try source.address(), "--"] + command, in: scratch)
        expectFailure(of: destination, code: 71, says: ["cannot start", "no-such-qemu", "No such file"])
        #expect(source.says("refused"))
        try expectUndisturbed(source, qemu)
    }

    @Test func destinationRefusesItsOptions() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        let destination = try Program.pageferry(
            ["destination", "--connect", try source.address(), "--"] + scratch.machine("destination", extra: ["-no-such-option"]),
            in: scratch)
        expectFailure(of: destination, code: 70, says: ["QEMU ended with status 1", "no-such-option"])
        #expect(destination.errorOutput.contains("no-such-option"))
        #expect(source.says("refused"))
        try expectUndisturbed(source, qemu)
    }

    /// After a destination that failed the next one takes the machine over.
    @Test func secondDestinationSucceeds() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        let address = try source.address()
        let failed = try Program.pageferry(
            ["destination", "--connect", address, "--"] + scratch.machine("failed", megabytes: 128), in: scratch)
        #expect(failed.exitCode() == 78)
        let destination = try Program.pageferry(["destination", "--connect", address, "--"] + scratch.machine("destination"), in: scratch)
        #expect(source.exitCode() == 0, "\(source.errorOutput) \(destination.errorOutput)")
        #expect(destination.says("every page is here"))
        #expect(try scratch.status("destination") == "running")
        // The signal asks the command to end; the machine it keeps is asked here.
        try QMPClient(connectingTo: "\(scratch.file("destination")).qmp").execute("quit")
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        qemu.end()
        scratch.expectNothingLeft(except: ["source.qmp"])
    }

    @Test func sourceEndedBeforeAnyDestination() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        _ = try source.address()
        try expectUndisturbed(source, qemu)
    }

    /// A destination for memory files cannot take a machine.
    @Test func destinationPullsMemoryOnly() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        let destination = try Program.pageferry(
            ["destination", "--connect", try source.address(), "--handoff", scratch.file("handoff")], in: scratch)
        expectFailure(of: destination, code: 78, says: ["the source migrates a virtual machine", "start the destination with"])
        try expectUndisturbed(source, qemu)
    }

    /// A destination for machines cannot take a memory file.
    @Test func sourceServesMemoryOnly() throws {
        let source = try Program.pageferry(["source", "--memory", try scratch.memoryFile(), "--listen", "127.0.0.1:0"], in: scratch)
        let destination = try Program.pageferry(
            ["destination", "--connect", try source.address(), "--"] + scratch.machine("destination"), in: scratch)
        expectFailure(of: destination, code: 78, says: ["serves a memory file", "--handoff PATH", "--qmp"])
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0)
        scratch.expectNothingLeft()
    }

    @Test func sourceMachineWithPrivateMemory() throws {
        let qemu = try scratch.start(scratch.machine("source", backend: "memory-backend-memfd,share=off"), qmp: "source")
        let source = try scratch.source()
        expectFailure(of: source, code: 78, says: ["'ram' is not shared", "share=on"])
        #expect(try scratch.status("source") == "running")
        qemu.end()
        scratch.expectNothingLeft(except: ["source.qmp"])
    }

    @Test func sourceMachineWithoutBackend() throws {
        let arguments = [
            "qemu-system-x86_64", "-name", scratch.file("source"), "-nodefaults", "-no-user-config", "-display", "none", "-machine",
            "q35,accel=tcg", "-m", "64", "-qmp", "unix:\(scratch.file("source")).qmp,server=on,wait=off",
        ]
        let qemu = try scratch.start(arguments, qmp: "source")
        let source = try scratch.source()
        expectFailure(of: source, code: 78, says: ["share=on"])
        #expect(try scratch.status("source") == "running")
        qemu.end()
        scratch.expectNothingLeft(except: ["source.qmp"])
    }
}
