import Foundation
import Glibc
import PageCore

/// The two daemons of a round, started as an operator would, killed and started again with the very same commands.
final class ChaosDaemons {
    let handoffPath: String
    private let sourceCommand: [String]
    private let destinationCommand: [String]
    private let directory: String
    private var source: ChildProcess?
    private var destination: ChildProcess?
    private var starts = 0

    /// Descriptors of this process that the destination's first daemon passes on to its machine.
    private let inherited: [Int32: Int32]

    /// For a memory file and memory that is handed over.
    init(_ executablePath: String, memory: String, directory: String) {
        self.directory = directory
        handoffPath = "\(directory)/handoff"
        inherited = [:]
        sourceCommand = Self.source(executablePath, directory) + ["--memory", memory, "--sessions", "1"]
        destinationCommand = Self.destination(executablePath, directory) + ["--handoff", handoffPath]
    }

    /// For a machine.
    init(_ executablePath: String, qmp: String, machine: GuestMachine, directory: String) {
        self.directory = directory
        handoffPath = "\(directory)/destination.state/handoff"
        inherited = machine.inherited
        sourceCommand = Self.source(executablePath, directory) + ["--qmp", qmp]
        destinationCommand = Self.destination(executablePath, directory) + ["--detach", "--"] + machine.arguments
    }

    private static func source(_ executablePath: String, _ directory: String) -> [String] {
        [executablePath, "source", "--listen", "unix:\(directory)/source", "--state", "\(directory)/source.state"]
    }

    private static func destination(_ executablePath: String, _ directory: String) -> [String] {
        [executablePath, "destination", "--connect", "unix:\(directory)/relay", "--state", "\(directory)/destination.state"]
    }

    func start() throws(DemonstrationError) {
        try startSource()
        // A destination that finds nobody at its first try gives up: nothing is begun then.
        let deadline = MonotonicClock.nowNanoseconds() + 20_000_000_000
        // SAFETY: the path is terminated and lives for the call.
        while unsafe access("\(directory)/source", F_OK) != 0, MonotonicClock.nowNanoseconds() < deadline { _ = poll(nil, 0, 2) }
        try startDestination()
    }

    private func startSource() throws(DemonstrationError) { source = try begin(sourceCommand, "source") }
    private func startDestination() throws(DemonstrationError) { destination = try begin(destinationCommand, "destination") }

    private func begin(_ command: [String], _ side: String) throws(DemonstrationError) -> ChildProcess {
        starts += 1
        return try ChildProcess(
            command, inheriting: side == "destination" ? inherited : [:], outputPath: "\(directory)/\(side).\(starts).log")
    }

    /// Whether the machine runs at the destination: from then on nothing may be lost.
    var isMachineResumed: Bool {
        let state = try? String(contentsOfFile: "\(directory)/destination.state/destination.json", encoding: .utf8)
        return state?.contains("\"isResumed\":true") == true
    }

    var isDestinationRunning: Bool { destination?.waitForEnd(timeoutNanoseconds: 0) == nil }

    /// Kills the source's daemon and starts it again.
    func restartSource() throws(DemonstrationError) {
        // One that has heard that all is well has ended by itself.
        guard source?.waitForEnd(timeoutNanoseconds: 0) == nil else { return }
        source?.end()
        // It may have heard so, and been killed on its way out: then nothing is left to be taken over.
        guard isSourceLeft else { return }
        try startSource()
    }

    private var isSourceLeft: Bool {
        let names = try? FileManager.default.contentsOfDirectory(atPath: "\(directory)/source.state")
        return names?.contains { $0.hasPrefix("session-") } == true
    }

    /// Kills the destination's daemon and starts it again.
    ///
    /// - Returns: false when it had come to its own end.
    func restartDestination() throws(DemonstrationError) -> Bool {
        guard isDestinationRunning else { return false }
        destination?.end()
        // It may have been through, and killed on its way out: then nothing is left to be taken over.
        // SAFETY: the path is terminated and lives for the call.
        guard unsafe access("\(directory)/destination.state/destination.json", F_OK) == 0 else { return false }
        try startDestination()
        return true
    }

    /// Waits until both have come to their own end.
    ///
    /// - Returns: why not, with what they said last; nil when both did, well.
    func finish(before deadlineNanoseconds: UInt64) -> String? {
        for (side, daemon) in [("destination", destination), ("source", source)] {
            let now = MonotonicClock.nowNanoseconds()
            let left = deadlineNanoseconds > now ? deadlineNanoseconds - now : 0
            guard let code = daemon?.waitForEnd(timeoutNanoseconds: left) else { return "the \(side) did not end\(words)" }
            // A destination that was killed on its way out has done its work.
            if code != 0, code != 128 + SIGKILL { return "the \(side) ended with status \(code)\(words)" }
        }
        return nil
    }

    /// What the daemons said, in the order of their starts.
    private var words: String {
        var text = ""
        for number in 1...max(1, starts) {
            for side in ["source", "destination"] {
                guard let said = try? String(contentsOfFile: "\(directory)/\(side).\(number).log", encoding: .utf8), !said.isEmpty else {
                    continue
                }
                text += "\n  \(side) \(number): " + said.replacing("\n", with: "\n    ")
            }
        }
        return text
    }
}
