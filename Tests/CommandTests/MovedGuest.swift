import Glibc
import Handoff
import Testing

@testable import Demonstration

/// The demonstration's guest, which works and counts its own errors, moved by the real commands from one machine to another. A test
/// chooses the machines and what happens to them meanwhile.
final class MovedGuest {
    let scratch: Scratch
    let source: GuestMachine
    let destination: GuestMachine
    private let sourceQemu: Program
    private var sourceDaemon: Program?
    private var isDestinationStarted = false

    /// Emulated boots take seconds; on a busy host, minutes.
    private static let bootNanoseconds = 240 * seconds

    /// Starts the source's machine.
    ///
    /// - Parameter image: the directory of the guest's files.
    init(_ scratch: Scratch, source: GuestShape, destination: GuestShape, image: String = Built.guest) throws {
        self.scratch = scratch
        let image = try GuestImage(directory: image)
        func machine(_ name: String, _ shape: GuestShape) throws -> GuestMachine {
            try GuestMachine(
                image, shape: shape, consolePath: scratch.file("\(name).console"),
                extra: ["-name", "guest=\(name)", "-qmp", "unix:\(scratch.file(name)).qmp,server=on,wait=off"])
        }
        self.source = try machine("source", source)
        self.destination = try machine("destination", destination)
        sourceQemu = try Program(self.source.arguments, in: scratch, inheriting: self.source.inherited)
        self.source.port.start()
    }

    deinit {
        source.port.stop()
        destination.port.stop()
        if !isDestinationStarted { close(destination.port.theirs) }
    }

    private func startDestinationPort() {
        isDestinationStarted = true
        destination.port.start()
    }

    /// Waits until the guest has worked for a while.
    func waitUntilItWorks() throws { try source.waitForTicks(100, timeoutNanoseconds: Self.bootNanoseconds) }

    /// Waits for a line of the guest.
    func waitFor(_ line: String) throws {
        _ = try #require(source.port.wait(timeoutNanoseconds: Self.bootNanoseconds) { $0.text == line }, "\(sourceQemu.errorOutput)")
    }

    /// The monitor of "source" or "destination", for as long as the answer lives: the daemons need it too.
    func monitor(_ name: String) throws -> QMPClient {
        try QMPClient(connectingTo: "\(scratch.file(name)).qmp", timeoutNanoseconds: 120 * seconds)
    }

    /// Offers the machine, and has it taken.
    ///
    /// - Parameter launcher: a command that starts the destination's QEMU in turn.
    func move(_ options: [String] = [], launcher: [String] = []) throws -> Program {
        let address = try offer()
        let daemon = try Program.pageferry(
            ["destination", "--connect", address, "--json", scratch.file("destination.json")] + options + ["--"] + launcher
                + destination.arguments,
            in: scratch, inheriting: destination.inherited)
        startDestinationPort()
        return daemon
    }

    /// Has it taken by the QEMU of somebody else, who starts it with a command of their own in front.
    ///
    /// - Returns: the daemon, and that QEMU.
    func move(toQemuStartedBy launcher: [String], handoff: String, monitor: String, environment: [String: String]) throws -> (
        Program, Program
    ) {
        let address = try offer()
        let daemon = try Program.pageferry(
            [
                "destination", "--connect", address, "--json", scratch.file("destination.json"), "--handoff", handoff, "--qmp", monitor,
            ], in: scratch)
        try #require(daemon.says("waiting for the memory"), "\(daemon.errorOutput)")
        let qemu = try Program(
            launcher + destination.arguments.dropFirst() + ["-incoming", "defer"], in: scratch, environment: environment,
            inheriting: destination.inherited)
        startDestinationPort()
        return (daemon, qemu)
    }

    /// - Returns: where it is offered.
    func offer() throws -> String {
        let daemon = try scratch.source()
        sourceDaemon = daemon
        return try daemon.address()
    }

    /// Every page has crossed: ends the source, lets the guest go on without it, and hears its verdict.
    func expectWhole(_ daemon: Program, location: SourceLocation = #_sourceLocation) throws {
        #expect(daemon.says("every page is here", withinNanoseconds: 120 * seconds), "\(daemon.errorOutput)", sourceLocation: location)
        #expect(sourceDaemon?.exitCode() == 0, "\(sourceDaemon?.errorOutput ?? "")", sourceLocation: location)
        sourceQemu.end()
        try expectCorrect(location: location)
        #expect(daemon.exitCode() == 0, "\(daemon.errorOutput)", sourceLocation: location)
        scratch.expectNothingLeft(except: ["source.qmp"], location: location)
    }

    /// Lets the guest go on for a second, stops it, and expects that it has not noticed anything.
    func expectCorrect(location: SourceLocation = #_sourceLocation) throws {
        let reached = destination.log(continuing: source.port.unfinished).ticks.last?.number ?? 0
        try destination.waitForTicks(100, since: reached, timeoutNanoseconds: 120 * seconds)
        try destination.stopGuest()
        let account = GuestAccount(source: source.log(), destination: destination.log(continuing: source.port.unfinished))
        #expect(account.faults == [], sourceLocation: location)
    }

    func endSource() {
        sourceDaemon?.end()
        sourceQemu.end()
    }
}
