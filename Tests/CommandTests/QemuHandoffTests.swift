import Foundation
import Glibc
import Handoff
import TestSupport
import Testing

/// A machine taken over by a QEMU that somebody else has started, and what may go wrong with it. Firmware's guests of 64 MiB.
@Suite(.leavesNothing, .serialized, .enabled(if: Built.canMigrate)) struct QemuHandoffTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private var handoff: String { scratch.file("handoff") }

    private func destination(_ source: Program, _ options: [String] = [], environment: [String: String] = [:]) throws -> Program {
        let daemon = try Program.pageferry(
            ["destination", "--connect", try source.address(), "--handoff", handoff, "--qmp", "\(scratch.file("destination")).qmp"]
                + options,
            in: scratch, environment: environment)
        try #require(daemon.says("waiting for"), "\(daemon.errorOutput)")
        return daemon
    }

    /// What becomes QEMU, with the environment alone.
    private func launched(_ command: [String]) throws -> Program {
        try Program.pageferry(["launch", "--handoff", handoff, "--"] + command + ["-incoming", "defer"], in: scratch)
    }

    private func expectGuestAtSource(_ source: Program, _ qemu: Program) throws {
        source.signal(SIGTERM)
        #expect(source.exitCode() != nil)
        #expect(poll(until: { (try? scratch.status("source")) == "running" }), "\(source.errorOutput)")
        qemu.end()
        scratch.expectNothingLeft(except: ["source.qmp", "destination.qmp", "handoff"])
    }

    /// Two backends of one size and kind, in another order than at the source: they are told apart by where they are.
    @Test func backendsAreToldApart() throws {
        func machine(_ name: String, _ order: [Int]) -> [String] {
            let backends = order.flatMap { ["-object", "memory-backend-memfd,id=node\($0),size=32M,share=on"] }
            let nodes = (0...1).flatMap { ["-numa", "node,nodeid=\($0),memdev=node\($0)"] }
            return [
                "qemu-system-x86_64", "-name", scratch.file(name), "-nodefaults", "-no-user-config", "-display", "none", "-machine",
                "q35,accel=tcg", "-m", "64", "-qmp", "unix:\(scratch.file(name)).qmp,server=on,wait=off",
            ] + backends + nodes
        }
        let qemu = try scratch.start(machine("source", [0, 1]), qmp: "source")
        let source = try scratch.source()
        let daemon = try destination(source)
        let other = try launched(machine("destination", [1, 0]))
        #expect(daemon.exitCode() == 0, "\(daemon.errorOutput) \(other.errorOutput)")
        #expect(source.exitCode() == 0, "\(source.errorOutput)")
        qemu.end()
        let monitor = try QMPClient(connectingTo: "\(scratch.file("destination")).qmp")
        #expect(try monitor.execute("query-status")["status"]?.string == "running")
        // What is plugged in later is the machine's own, however it is mapped.
        for share in [true, false] {
            let size = JSONValue.integer(32 << 20)
            try monitor.execute(
                "object-add", ["qom-type": "memory-backend-memfd", "id": .string("later\(share)"), "size": size, "share": .boolean(share)])
        }
        try monitor.execute("quit")
        #expect(other.exitCode() == 0, "\(other.errorOutput)")
        scratch.expectNothingLeft(except: ["source.qmp"])
    }

    @Test func memorySizesDiffer() throws {
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        let daemon = try destination(source)
        let other = try launched(scratch.machine("destination", megabytes: 128))
        expectFailure(of: daemon, code: 78, says: ["64 MiB", "128 MiB"])
        #expect(other.exitCode() != nil, "it is not left behind")
        #expect(source.says("refused"))
        try expectGuestAtSource(source, qemu)
    }

    /// Nobody serves a machine: whoever started its QEMU learns why it ended.
    @Test func theSourceIsNotThere() throws {
        let daemon = try Program.pageferry(
            [
                "destination", "--connect", "unix:\(scratch.file("nobody"))", "--handoff", handoff, "--qmp",
                "\(scratch.file("destination")).qmp",
            ],
            in: scratch)
        try #require(daemon.says("waiting for"), "\(daemon.errorOutput)")
        let other = try launched(scratch.machine("destination"))
        #expect(other.exitCode() == 71)
        #expect(other.errorOutput.contains("the page daemon refused: ") && other.errorOutput.contains("nobody"), "\(other.errorOutput)")
        expectFailure(of: daemon, code: 69, says: ["nobody"])
        scratch.expectNothingLeft(except: ["destination.qmp"])
    }

    /// Without -incoming it is the QEMU that was asked for, with no memory handed over.
    @Test func whatWaitsForNothingIsLeftAlone() throws {
        let qemu = try Program.pageferry(
            ["launch", "--handoff", handoff, "--qmp", "\(scratch.file("more")).qmp", "--"] + scratch.machine("alone"), in: scratch)
        #expect(poll(until: { (try? scratch.status("more")) == "running" || !qemu.isRunning }), "\(qemu.errorOutput)")
        #expect(try scratch.status("alone") == "running")
        try QMPClient(connectingTo: "\(scratch.file("alone")).qmp").execute("quit")
        #expect(qemu.exitCode() == 0)
        scratch.expectNothingLeft()
    }

    #if DEBUG
        @Test(arguments: ["destination-handed-over", "destination-loaded"]) func daemonKilledBeforeTheCommit(_ step: String) throws {
            let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
            let source = try scratch.source()
            let daemon = try destination(source, environment: ["PAGEFERRY_STOP_AT": step])
            let other = try launched(scratch.machine("destination"))
            try #require(poll(until: { daemon.isStopped || !daemon.isRunning }) && daemon.isRunning, "\(daemon.errorOutput)")
            daemon.end()
            #expect(other.exitCode() != nil, "it is not left behind")
            try expectGuestAtSource(source, qemu)
        }

        /// The guest is this host's; the next daemon lets it run and brings its pages.
        @Test func daemonKilledAfterTheCommit() throws {
            let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
            let source = try scratch.source()
            let state = ["--state", scratch.file("state")]
            let daemon = try destination(source, state, environment: ["PAGEFERRY_STOP_AT": "destination-taken"])
            let other = try launched(scratch.machine("destination"))
            try #require(poll(until: { daemon.isStopped || !daemon.isRunning }) && daemon.isRunning, "\(daemon.errorOutput)")
            daemon.end()
            let next = try destination(source, state)
            #expect(next.says("every page is here"), "\(next.errorOutput)")
            #expect(next.exitCode() == 0, "\(next.errorOutput)")
            #expect(source.exitCode() == 0, "\(source.errorOutput)")
            #expect(try scratch.status("destination") == "running")
            #expect(try scratch.status("source") == "postmigrate")
            qemu.end()
            try QMPClient(connectingTo: "\(scratch.file("destination")).qmp").execute("quit")
            #expect(other.exitCode() == 0, "\(other.errorOutput)")
            scratch.expectNothingLeft(except: ["source.qmp"])
        }
    #endif
}
