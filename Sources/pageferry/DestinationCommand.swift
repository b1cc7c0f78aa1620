import ArgumentParser
import Handoff
import PageCore
import PageEngine
import PageFerry
import PageWire
import SecureStream
import StreamTransport

/// `pageferry destination`: takes a machine's memory from a source, by demand and by push.
struct DestinationCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "destination",
        abstract: "Take over a virtual machine, or page in a memory file, from a source.",
        discussion: """
            With a command after `--` that starts QEMU as it was started on the source, the machine resumes here at once and its pages follow.
            Without one, memory is handed over by another process through the socket given with --handoff (Documentation/Handoff.md): with
            --qmp that of a QEMU which somebody else starts with -incoming defer (Documentation/Qemu.md), which takes the machine over as well.
            A Firecracker that resumes from a snapshot hands its memory over through --handoff firecracker:PATH (Documentation/Firecracker.md).
            """
    )

    @OptionGroup var paging: PagingArguments

    @Option(
        help: ArgumentHelp("Wait here for memory handed over by another process, or by a Firecracker.", valueName: "[firecracker:]path"))
    var handoff: HandoffArgument?

    @Option(help: ArgumentHelp("QMP socket of the QEMU that hands its memory over: it takes a machine from the source.", valueName: "path"))
    var qmp: String?

    @Option(
        help: ArgumentHelp(
            "The user QEMU runs as, when it is another: may hand memory over, and inherits /dev/userfaultfd after --.", valueName: "user"))
    var handoffOwner: UserArgument?

    @Option(
        help: ArgumentHelp("The preload library that hands QEMU's memory over; found beside this program by default.", valueName: "path"))
    var shim: String?

    @Option(
        help: ArgumentHelp(
            "Keep here what a daemon needs that is started again after this one has died; a directory of its own.", valueName: "directory"))
    var state: String?

    @Option(help: ArgumentHelp("Write what happened to this file as JSON.", valueName: "file"))
    var json: String?

    @Flag(help: "End once every page is here, and leave the machine running; otherwise wait for its end.")
    var detach = false

    @Argument(parsing: .postTerminator, help: ArgumentHelp("The command that starts QEMU.", valueName: "command"))
    var command: [String] = []

    func validate() throws {
        guard command.isEmpty == (handoff != nil) else {
            throw ValidationError(
                "give either a command that starts QEMU after `--`, or --handoff PATH to wait for memory from another process")
        }
        if qmp != nil {
            guard let handoff, handoff.form == .native else {
                throw ValidationError("--qmp goes with --handoff PATH; QEMU started after `--` has a monitor of ours")
            }
        }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            if let handoff, let qmp {
                try QemuHandoffMigration(command: self, handoffPath: handoff.path, monitorPath: qmp).run()
            } else if let handoff {
                try HandoffDestination(command: self, handoff: handoff).run()
            } else {
                try QemuDestinationMigration(command: self).run()
            }
        }
    }

    /// Writes what a session that is over leaves behind.
    func report(_ session: DestinationSession, error: String?) throws(CommandFailure) {
        if let json { try JSONFile.write(SessionReport(side: "destination", session.statistics.read(), error: error), to: json) }
        if let recordTrace = paging.recordTrace, let trace = session.trace { try TraceFile.write(trace, to: recordTrace) }
    }
}
