import Foundation
import Glibc
import Handoff
import PageCore

/// Moves the demonstration's guest with QEMU's own post-copy, begun at once, its pages on the preempt channel: what a user
/// would take instead. Its fault latencies are measured from outside, by a library preloaded into the destination.
public struct NativeMigration {
    public var image: GuestImage
    /// The library that times faults (product pageferry-fault-probe).
    public var probePath: String
    public var usesPreempt = true
    public var link = MigrationLink.loopback
    public var progress: @Sendable (String) -> Void

    public init(image: GuestImage, probePath: String, progress: @escaping @Sendable (String) -> Void) {
        self.image = image
        self.probePath = probePath
        self.progress = progress
    }

    public func run() throws(DemonstrationError) -> MigrationReport {
        let schedule = GuestSchedule()
        let directory = try PrivateDirectory()
        // Its sockets are in use until the end, whatever of it is named last.
        defer { withExtendedLifetime(directory) {} }
        let source = try GuestMachine(
            image, shape: .anonymous, consolePath: "\(directory.path)/source.console",
            extra: ["-qmp", "unix:\(directory.path)/source.qmp,server=on,wait=off"])
        progress("booting the guest")
        let sourceProcess = try source.start(prefix: link.sourcePrefix)
        try source.waitForTicks(schedule.ticksBefore)
        let destination = try GuestMachine(
            image, shape: .anonymous, consolePath: "\(directory.path)/destination.console",
            extra: ["-qmp", "unix:\(directory.path)/destination.qmp,server=on,wait=off", "-incoming", "defer"])
        let latencies = "\(directory.path)/latencies"
        let destinationProcess = try destination.start(
            environment: [
                "LD_PRELOAD": probePath, "PAGEFERRY_PROBE_OUTPUT": latencies,
            ], prefix: link.destinationPrefix)
        progress("moving it with QEMU's own post-copy")
        let machines = [sourceProcess, destinationProcess].map { process in
            MachineProcessorTime(vcpus: source.processors) { process.processIdentifier }
        }
        defer { for machine in machines { machine.stop() } }
        let outcome: Outcome
        do throws(QemuError) {
            outcome = try migrate(directory.path)
        } catch {
            throw DemonstrationError("QEMU's own migration: \(error.description)")
        }
        for machine in machines { machine.stop() }
        progress("ending the source, letting the guest go on")
        sourceProcess.end()
        try schedule.finish(destination)
        guard destinationProcess.waitForEnd(timeoutNanoseconds: 30_000_000_000) != nil else {
            throw DemonstrationError("the destination's QEMU did not power off")
        }
        source.port.stop()
        destination.port.stop()
        let account = GuestAccount(source: source.log(), destination: destination.log(continuing: source.port.unfinished))
        var report = try report(outcome, account, latenciesPath: latencies)
        var used = MigrationProcessorTime(daemonsSeconds: 0, daemonsFromSwitchSeconds: 0, machinesSeconds: 0)
        for machine in machines {
            used.machinesSeconds += try machine.seconds(
                fromNanoseconds: outcome.startNanoseconds, toNanoseconds: outcome.lastPageNanoseconds)
        }
        report.processorTime = used
        return report
    }

    private struct Outcome {
        /// Just before the source is told to migrate.
        var startNanoseconds: UInt64
        var stopNanoseconds: UInt64
        var resumeNanoseconds: UInt64?
        var lastPageNanoseconds: UInt64
        var normalPages: Int?
        var zeroPages: Int?
    }

    private func migrate(_ directory: String) throws(QemuError) -> Outcome {
        let source = try connect("\(directory)/source.qmp")
        let destination = try connect("\(directory)/destination.qmp")
        var capabilities = ["postcopy-ram", "events"]
        if usesPreempt { capabilities.append("postcopy-preempt") }
        for (client, names) in [(destination, capabilities), (source, capabilities + ["return-path"])] {
            let list = names.map { JSONValue.object(["capability": .string($0), "state": true]) }
            try client.execute("migrate-set-capabilities", ["capabilities": .array(list)])
        }
        try destination.execute("migrate-incoming", ["uri": .string("tcp:\(link.destinationAddress):0")])
        let port = try listeningPort(destination)
        let start = MonotonicClock.nowNanoseconds()
        try source.execute("migrate", ["uri": .string("tcp:\(link.destinationAddress):\(port)")])
        try startPostcopy(source)
        let deadline = MonotonicClock.nowNanoseconds() + 120_000_000_000
        guard let stop = try source.nextEvent(named: ["STOP"], deadlineNanoseconds: deadline) else {
            throw .timedOut(waitingFor: "the guest to stop")
        }
        var resumed: UInt64?
        while true {
            guard let event = try destination.nextEvent(named: ["MIGRATION", "RESUME"], deadlineNanoseconds: deadline) else {
                throw .timedOut(waitingFor: "the last page")
            }
            if event.name == "RESUME" {
                resumed = event.arrivedNanoseconds
                continue
            }
            let status = event.data["status"]?.string
            if status == "failed" { throw .migrationFailed("at the destination") }
            guard status == "completed" else { continue }
            let ram = try source.execute("query-migrate")["ram"]
            return Outcome(
                startNanoseconds: start, stopNanoseconds: stop.arrivedNanoseconds, resumeNanoseconds: resumed,
                lastPageNanoseconds: event.arrivedNanoseconds,
                normalPages: ram?["normal"]?.integer, zeroPages: ram?["duplicate"]?.integer)
        }
    }

    /// QEMU binds the port it was asked to choose, and says which with its migration's state.
    private func listeningPort(_ destination: QMPClient) throws(QemuError) -> Int {
        let addresses = try destination.execute("query-migrate")["socket-address"]?.array ?? []
        guard let port = addresses.compactMap({ $0["port"]?.string }).compactMap({ Int($0) }).first else {
            throw .refused(command: "migrate-incoming", text: "it does not say on which port it listens")
        }
        return port
    }

    /// Its QMP socket exists a moment after QEMU has started.
    private func connect(_ path: String) throws(QemuError) -> QMPClient {
        let deadline = MonotonicClock.nowNanoseconds() + 20_000_000_000
        while true {
            do throws(QemuError) {
                return try QMPClient(connectingTo: path)
            } catch {
                guard case .cannotConnect = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = poll(nil, 0, 5)
            }
        }
    }

    /// Refused until the migration has begun.
    private func startPostcopy(_ source: QMPClient) throws(QemuError) {
        let deadline = MonotonicClock.nowNanoseconds() + 20_000_000_000
        while true {
            do throws(QemuError) {
                try source.execute("migrate-start-postcopy")
                return
            } catch {
                guard case .refused = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = poll(nil, 0, 1)
            }
        }
    }

    private func report(_ outcome: Outcome, _ account: GuestAccount, latenciesPath: String) throws(DemonstrationError) -> MigrationReport {
        guard let text = try? String(contentsOfFile: latenciesPath, encoding: .utf8) else {
            throw DemonstrationError("the fault probe wrote nothing; is \(probePath) built?")
        }
        let sorted = text.split(separator: "\n").compactMap { UInt64($0) }.sorted()
        func percentile(_ share: Double) -> Double {
            guard !sorted.isEmpty else { return 0 }
            return Double(sorted[min(sorted.count - 1, Int((Double(sorted.count) * share).rounded(.up)) - 1)]) / 1_000
        }
        return MigrationReport(
            system: usesPreempt ? "QEMU post-copy + preempt" : "QEMU post-copy", guest: account,
            stopToResumeMilliseconds: outcome.resumeNanoseconds.map {
                Double($0) / 1e6 - Double(outcome.stopNanoseconds) / 1e6
            },
            lastPageMilliseconds: Double(outcome.lastPageNanoseconds) / 1e6 - Double(outcome.stopNanoseconds) / 1e6,
            faults: sorted.count, faultP50Microseconds: percentile(0.5), faultP99Microseconds: percentile(0.99),
            faultMaxMicroseconds: Double(sorted.last ?? 0) / 1_000, bytes: outcome.normalPages.map { $0 * 4096 },
            demandPages: nil, windowPages: nil, pushPages: nil, zeroPages: outcome.zeroPages)
    }
}
