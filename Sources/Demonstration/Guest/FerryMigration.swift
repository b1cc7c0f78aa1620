import Foundation
import Glibc
import PageCore

/// Moves the demonstration's guest with `pageferry source` and `pageferry destination`, two processes, as a user would.
public struct FerryMigration {
    /// What `pageferry --json` wrote, as far as it is used here.
    private struct SideReport: Decodable {
        var phase: String
        var error: String?
        var faults: Int
        var faultP50Microseconds: Double
        var faultP99Microseconds: Double
        var faultMaxMicroseconds: Double
        var demandPages: Int
        var windowPages: Int
        var pushPages: Int
        var zeroPages: Int
        var contentBytes: Int
        var guestStoppedNanoseconds: UInt64?
        var resumedNanoseconds: UInt64?
        var lastPageNanoseconds: UInt64?
    }

    /// From before QEMU is told to migrate to the guest's stop it takes less.
    private static let switchLeadNanoseconds: UInt64 = 20_000_000

    public var image: GuestImage
    /// The pageferry program.
    public var executablePath: String
    public var link = MigrationLink.loopback
    /// More options for `pageferry destination`.
    public var destinationOptions: [String] = []
    /// Told what happens, for a person who watches.
    public var progress: @Sendable (String) -> Void

    public init(image: GuestImage, executablePath: String, progress: @escaping @Sendable (String) -> Void) {
        self.image = image
        self.executablePath = executablePath
        self.progress = progress
    }

    public func run() throws(DemonstrationError) -> MigrationReport {
        let schedule = GuestSchedule()
        let directory = try PrivateDirectory()
        // Its sockets are in use until the end, whatever of it is named last.
        defer { withExtendedLifetime(directory) {} }
        let sourceMemory = MemoryBackingFile("source")
        let destinationMemory = MemoryBackingFile("destination")
        defer { withExtendedLifetime(destinationMemory) {} }
        let qmp = "\(directory.path)/qmp"
        let source = try GuestMachine(
            image, shape: .file(sourceMemory.path), consolePath: "\(directory.path)/source.console",
            extra: ["-qmp", "unix:\(qmp),server=on,wait=off"])
        progress("booting the guest")
        let sourceProcess = try source.start()
        try source.waitForTicks(schedule.ticksBefore)

        progress("moving it")
        let destination = try GuestMachine(
            image, shape: .file(destinationMemory.path), consolePath: "\(directory.path)/destination.console",
            extra: ["-pidfile", "\(directory.path)/destination.pid"])
        let end = DestinationEnd(pidFile: "\(directory.path)/destination.pid")
        let machines = [
            MachineProcessorTime(vcpus: source.processors) { sourceProcess.processIdentifier },
            MachineProcessorTime(vcpus: source.processors) { end.process },
        ]
        defer { for machine in machines { machine.stop() } }
        let (report, daemons, daemonsNanoseconds) = try migrate(destination, qmp: qmp, directory.path)
        for machine in machines { machine.stop() }

        progress("ending the source, letting the guest go on")
        sourceProcess.end()
        sourceMemory.remove()
        try schedule.finish(destination)
        end.end()
        source.port.stop()
        destination.port.stop()
        let account = GuestAccount(source: source.log(), destination: destination.log(continuing: source.port.unfinished))
        var summary = summary(report, account)
        if let stopped = report.guestStoppedNanoseconds, let last = report.lastPageNanoseconds {
            var used = MigrationProcessorTime(
                daemonsSeconds: Double(daemonsNanoseconds) / 1e9, daemonsFromSwitchSeconds: 0, machinesSeconds: 0)
            let start = stopped - Self.switchLeadNanoseconds
            for machine in machines { used.machinesSeconds += try machine.seconds(fromNanoseconds: start, toNanoseconds: last) }
            for daemon in daemons { used.daemonsFromSwitchSeconds += try daemon.seconds(fromNanoseconds: start, toNanoseconds: last) }
            summary.processorTime = used
        }
        return summary
    }

    /// - Returns: what the destination wrote, and the processor time of both daemons: as they went, and all of it.
    private func migrate(
        _ destination: GuestMachine, qmp: String, _ directory: String
    ) throws(DemonstrationError) -> (SideReport, [MachineProcessorTime], nanoseconds: UInt64) {
        let messages = try LineChannel()
        let sourceSide = try ChildProcess(
            link.sourcePrefix + [executablePath, "source", "--qmp", qmp, "--listen", "\(link.sourceAddress):0", "--insecure"],
            inheriting: [2: messages.theirs])
        messages.start()
        defer { messages.stop() }
        let address = try listeningAddress(messages)
        let jsonPath = "\(directory)/destination.json"
        let destinationSide = try ChildProcess(
            link.destinationPrefix
                + [executablePath, "destination", "--connect", address, "--insecure", "--detach", "--json", jsonPath] + destinationOptions
                + ["--"]
                + destination.arguments,
            inheriting: destination.inherited)
        destination.port.start()
        let daemons = [sourceSide, destinationSide].map { side in MachineProcessorTime(vcpus: 0) { side.processIdentifier } }
        defer { for daemon in daemons { daemon.stop() } }
        guard let code = destinationSide.waitForEnd(timeoutNanoseconds: 120_000_000_000) else {
            throw DemonstrationError("the migration did not end in 120 s")
        }
        guard code == 0 else {
            throw DemonstrationError("pageferry destination ended with status \(code); see its message above")
        }
        guard sourceSide.waitForEnd(timeoutNanoseconds: 10_000_000_000) == 0 else {
            throw DemonstrationError("pageferry source failed: \(messages.all.map(\.text).joined(separator: "; "))")
        }
        for (daemon, side) in zip(daemons, [sourceSide, destinationSide]) { daemon.ended(usedNanoseconds: side.processorNanoseconds) }
        do {
            let report = try JSONDecoder().decode(SideReport.self, from: Data(contentsOf: URL(filePath: jsonPath)))
            return (report, daemons, sourceSide.processorNanoseconds + destinationSide.processorNanoseconds)
        } catch {
            throw DemonstrationError("pageferry destination wrote no report: \(error)")
        }
    }

    /// "… on ADDRESS:41234", as the source says once it listens.
    private func listeningAddress(_ messages: LineChannel) throws(DemonstrationError) -> String {
        let line = messages.wait(timeoutNanoseconds: 20_000_000_000) {
            $0.text.contains(" on \(link.sourceAddress):") || $0.text.contains("error:")
        }
        guard let line, !line.text.contains("error:"), let address = line.text.split(separator: " ").last else {
            throw DemonstrationError("pageferry source does not listen: \(messages.all.map(\.text).joined(separator: "; "))")
        }
        return String(address)
    }

    private func summary(_ report: SideReport, _ account: GuestAccount) -> MigrationReport {
        let stopped = report.guestStoppedNanoseconds ?? 0
        let last = report.lastPageNanoseconds ?? 0
        return MigrationReport(
            system: "PageFerry", guest: account,
            stopToResumeMilliseconds: report.resumedNanoseconds.map { Double($0) / 1e6 - Double(stopped) / 1e6 },
            lastPageMilliseconds: Double(last) / 1e6 - Double(stopped) / 1e6,
            faults: report.faults, faultP50Microseconds: report.faultP50Microseconds,
            faultP99Microseconds: report.faultP99Microseconds, faultMaxMicroseconds: report.faultMaxMicroseconds,
            bytes: report.contentBytes, demandPages: report.demandPages, windowPages: report.windowPages,
            pushPages: report.pushPages, zeroPages: report.zeroPages)
    }
}

/// Ends the destination's QEMU, which is no child of this process, by the id it wrote down; also when a demonstration fails.
final class DestinationEnd: Sendable {
    private let pidFile: String

    init(pidFile: String) { self.pidFile = pidFile }

    deinit { end() }

    /// The process's id, once it has written that down.
    var process: pid_t? {
        guard let text = try? String(contentsOfFile: pidFile, encoding: .utf8),
            let process = pid_t(text.trimmingCharacters(in: .whitespacesAndNewlines)), process > 1
        else { return nil }
        return process
    }

    func end() {
        guard let process else { return }
        // QEMU removes the file at its own end; one that is left names a process that still runs.
        kill(process, SIGKILL)
        try? FileManager.default.removeItem(atPath: pidFile)
    }
}
