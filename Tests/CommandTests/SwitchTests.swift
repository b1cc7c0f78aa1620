#if DEBUG
    import Demonstration
    import Foundation
    import Glibc
    import Handoff
    import TestSupport
    import Testing

    /// The switch is a commit: before it, whatever fails leaves the source's guest running; after it the source never resumes.
    ///
    /// The daemons stop themselves at the step that PAGEFERRY_STOP_AT names (Sources/pageferry/SwitchStep.swift); there they
    /// are killed, or their links cut.
    @Suite(.leavesNothing, .serialized, .enabled(if: Built.canMigrate)) struct SwitchTests {
        static let sourceBefore = ["source-prepared", "source-started", "source-stopped", "source-completed"]
        static let sourceAfter = ["source-committed", "source-announced"]
        static let destinationBefore = ["destination-handed-over", "destination-loading", "destination-loaded"]
        static let destinationAfter = ["destination-taken", "destination-resumed"]
        static let all = sourceBefore + sourceAfter + destinationBefore + ["destination-confirmed"] + destinationAfter

        @Test(arguments: sourceBefore) func sourceDaemonKilledBeforeTheCommit(_ step: String) throws {
            let migration = try Migration(stoppedAt: step)
            migration.killStopped()
            try migration.expectGuestAtSource()
            migration.endDestination()
            try migration.expectNothingLeft()
        }

        @Test(arguments: sourceAfter) func sourceDaemonKilledAfterTheCommit(_ step: String) throws {
            let migration = try Migration(stoppedAt: step)
            migration.killStopped()
            try migration.expectGuestNeverAtSource()
            migration.endDestination()
            try migration.expectNothingLeft()
        }

        @Test(arguments: destinationBefore) func destinationDaemonKilledBeforeTheCommit(_ step: String) throws {
            let migration = try Migration(stoppedAt: step)
            migration.killStopped()
            migration.expectNoMachineAtDestination()
            // Where the source cannot know that the destination is gone for good, it is told so.
            migration.source.signal(SIGTERM)
            try migration.expectGuestAtSource()
            try migration.expectNothingLeft()
        }

        /// It has asked for the commit and does not know of it: the source may have committed or not, but its word holds.
        @Test func destinationDaemonKilledInDoubt() throws {
            let migration = try Migration(stoppedAt: "destination-confirmed")
            migration.killStopped()
            migration.expectNoMachineAtDestination()
            migration.source.signal(SIGTERM)
            try migration.expectOneWord()
            try migration.expectNothingLeft()
        }

        @Test(arguments: destinationAfter) func destinationDaemonKilledAfterTheCommit(_ step: String) throws {
            let migration = try Migration(stoppedAt: step)
            migration.killStopped()
            #expect(!migration.machinesAtDestination.isEmpty, "the guest is the destination's, with its daemon or without")
            migration.source.end()
            try migration.expectGuestNeverAtSource()
            migration.endDestination()
            try migration.expectNothingLeft()
        }

        /// The lanes break at the step, and may be made anew.
        @Test(arguments: all) func linkCut(_ step: String) throws {
            let migration = try Migration(stoppedAt: step)
            migration.relay.cut()
            migration.resumeStopped()
            try migration.expectOneGuest()
            try migration.expectNothingLeft()
        }

        /// The lanes break at the step, and the hosts do not meet again.
        @Test(arguments: all) func linkCutForGood(_ step: String) throws {
            let migration = try Migration(stoppedAt: step, options: ["--give-up-after", "1"])
            migration.stopRelay()
            migration.resumeStopped()
            try migration.expectOneWord()
            migration.endDestination()
            try migration.expectNothingLeft()
        }

        /// The lanes break in the middle of the machine state, which is 200 KB, or of what comes before and after it.
        @Test(arguments: [100, 2_000, 20_000, 60_000, 120_000, 180_000, 400_000]) func machineStateCut(_ bytes: Int) throws {
            let migration = try Migration(cutAfterBytes: bytes)
            try migration.expectOneGuest()
            try migration.expectNothingLeft()
        }
    }

    /// Two daemons with a relay between them, each with its QEMU.
    private final class Migration {
        let scratch: Scratch
        let qemu: Program
        let source: Program
        let destination: Program
        let relay: CuttingRelay
        private let stopped: Program?
        private var isRelayStopped = false

        /// - Parameters:
        ///   - step: where one of the daemons stops; when this returns it has.
        ///   - bytes: how many pass before the lanes break, once.
        init(stoppedAt step: String? = nil, cutAfterBytes bytes: Int = .max, options: [String] = []) throws {
            let scratch = try Scratch()
            let environment = step.map { ["PAGEFERRY_STOP_AT": $0] } ?? [:]
            let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
            let listening = scratch.file("listening")
            let source = try Program.pageferry(
                ["source", "--qmp", "\(scratch.file("source")).qmp", "--listen", "unix:\(listening)"] + options, in: scratch,
                environment: environment)
            try #require(source.says("serving the machine"), "\(source.errorOutput)")
            let relay = try CuttingRelay(path: scratch.file("relay"), to: listening) { $0 == 0 ? bytes : .max }
            let destination = try Program.pageferry(
                ["destination", "--connect", "unix:\(relay.path)"] + options + ["--"] + scratch.machine("destination"), in: scratch,
                environment: environment)
            let stopped = step.map { $0.hasPrefix("source") ? source : destination }
            if let stopped {
                try #require(
                    poll(until: { stopped.isStopped || !stopped.isRunning }) && stopped.isRunning,
                    "\(step!) is reached: \(source.errorOutput) \(destination.errorOutput)")
            }
            (self.scratch, self.qemu, self.source, self.destination, self.relay, self.stopped) =
                (scratch, qemu, source, destination, relay, stopped)
        }

        /// The hosts do not meet again.
        func stopRelay() {
            if !isRelayStopped { relay.stop() }
            isRelayStopped = true
        }

        func killStopped() { stopped?.end() }
        func resumeStopped() { stopped?.signal(SIGCONT) }

        /// QEMUs of the destination, frozen or not.
        var machinesAtDestination: [pid_t] {
            Scratch.processes(naming: scratch.file("destination")).filter { process in
                (fileText("/proc/\(process)/comm") ?? "").hasPrefix("qemu") && process != destination.process
            }
        }

        func expectNoMachineAtDestination() {
            #expect(poll(until: { self.machinesAtDestination.isEmpty }), "a QEMU was left behind: \(machinesAtDestination)")
        }

        func expectGuestAtSource() throws {
            #expect(poll(until: { (try? self.scratch.status("source")) == "running" }), "\(said)")
        }

        /// Once everybody who could make it run has ended, the source's guest stands still, and nobody can take it anew.
        func expectGuestNeverAtSource() throws {
            #expect(poll(until: { !self.source.isRunning && self.guards.isEmpty }), "\(said)")
            #expect(try scratch.status("source") == "postmigrate", "\(said)")
            let another = try Program.pageferry(
                ["source", "--qmp", "\(scratch.file("source")).qmp", "--listen", "127.0.0.1:0"], in: scratch)
            #expect(another.exitCode() == 75, "\(another.errorOutput)")
            #expect(try scratch.status("source") == "postmigrate")
        }

        /// The guest runs on one host, whole, and on one only.
        func expectOneGuest() throws {
            // A destination refused before the migration has begun is not the last: the source waits on.
            #expect(poll(until: { !self.source.isRunning || self.source.errorOutput.contains("refused") }), "\(said)")
            source.signal(SIGTERM)
            #expect(poll(until: { !self.source.isRunning }), "\(said)")
            if try scratch.status("source") == "running" {
                try expectDestinationGivesUp()
            } else {
                #expect(source.errorOutput.contains("every page is at the destination"), "\(said)")
                #expect(destination.says("every page is here"), "\(said)")
                #expect(try scratch.status("destination") == "running", "\(said)")
                #expect(try scratch.status("source") == "postmigrate")
                try QMPClient(connectingTo: "\(scratch.file("destination")).qmp").execute("quit")
                #expect(destination.exitCode() == 0, "\(said)")
            }
        }

        /// One that has asked for the commit looks for its source until somebody tells it that there is none.
        private func expectDestinationGivesUp() throws {
            destination.signal(SIGTERM)
            let code = try #require(destination.exitCode(), "\(said)")
            #expect(code != 0, "\(said)")
            expectNoMachineAtDestination()
        }

        /// What the source says when it ends is so: the guest runs on there, or never again.
        func expectOneWord() throws {
            let words = ["refused", "left already", "paused"]
            #expect(poll(until: { !self.source.isRunning || words.contains(where: self.source.errorOutput.contains) }), "\(said)")
            source.signal(SIGTERM)
            if poll(until: { !self.source.isRunning || self.source.errorOutput.contains("left already") }),
                !source.isRunning, try scratch.status("source") == "running"
            {
                try expectDestinationGivesUp()
            } else {
                source.end()
                try expectGuestNeverAtSource()
            }
        }

        /// Ends the destination whatever it waits for: not what is tested.
        func endDestination() {
            destination.end()
            for process in machinesAtDestination {
                let variables = String(decoding: fileContents("/proc/\(process)/environ") ?? [], as: UTF8.self).split(separator: "\0")
                kill(process, SIGKILL)
                // The socket of a killed daemon stays, for one that takes over.
                for variable in variables where variable.hasPrefix("PAGEFERRY_HANDOFF=/tmp/pageferry.") {
                    let directory = URL(filePath: String(variable.drop { $0 != "/" })).deletingLastPathComponent()
                    try? FileManager.default.removeItem(at: directory)
                }
            }
        }

        func expectNothingLeft() throws {
            source.end()
            qemu.end()
            stopRelay()
            // What killed daemons leave of files is found by their next start, or is this directory's.
            scratch.expectNothingLeft(except: ["source.qmp", "destination.qmp", "relay", "listening"])
        }

        private var guards: [pid_t] {
            Scratch.processes(naming: scratch.file("source")).filter { process in
                let line = String(decoding: fileContents("/proc/\(process)/cmdline") ?? [], as: UTF8.self)
                return line.split(separator: "\0").dropFirst().first == "guard"
            }
        }

        private var said: String { "source: \(source.errorOutput) destination: \(destination.errorOutput)" }
    }

    extension Program {
        /// Whether it has stopped itself (proc(5), the state of a process: T).
        var isStopped: Bool {
            guard let status = fileText("/proc/\(process)/stat"), let end = status.lastIndex(of: ")") else { return false }
            return status[end...].dropFirst(2).hasPrefix("T")
        }
    }
#endif
