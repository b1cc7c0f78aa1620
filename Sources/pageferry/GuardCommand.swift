import ArgumentParser
import Glibc
import Handoff

/// `pageferry guard`: started by the daemons themselves, never by an operator. See `SwitchGuard`.
struct GuardCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "guard", abstract: "Put right what a daemon killed before the commit leaves behind.", shouldDisplay: false)

    @Option(help: "The destination's QEMU, which ends with its daemon.")
    var process: Int32?

    @Option(help: "The directory of the destination's hand-off socket, which goes with its daemon.")
    var directory: String?

    @Option(help: "QMP socket of the source's QEMU, whose guest runs on without its daemon: for ps; the connection is handed over.")
    var qmp: String?

    @Argument(help: "The socket to the daemon.")
    var socket: Int32

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            if let process {
                try endDestination(process)
            } else {
                try recoverSource()
            }
        }
    }

    private func endDestination(_ process: pid_t) throws(CommandFailure) {
        var qemu: ForeignProcess?
        let isOrphaned = try attempt { () throws(QemuError) in
            try SwitchGuard.watch(socket) { _ throws(QemuError) in
                do throws(QemuError) {
                    qemu = try ForeignProcess(process)
                } catch .systemCall("pidfd_open", code: ESRCH) {
                    // It has ended by itself: the daemon says why.
                } catch {
                    throw error
                }
            }
        }
        guard isOrphaned else { return }
        if let qemu = qemu.take(), qemu.end() {
            Console.info("the daemon ended before the switch was committed; its QEMU was ended, the guest is the source's")
        }
        if let directory { HandoffDirectory.remove(directory) }
    }

    /// The connection to the monitor is the daemon's own: nobody else can have had it meanwhile, and started another migration.
    private func recoverSource() throws(CommandFailure) {
        var qemu: QemuSource?
        let isOrphaned = try attempt { () throws(QemuError) in
            try SwitchGuard.watch(socket) { descriptor throws(QemuError) in qemu = descriptor.map { QemuSource(continuing: $0) } }
        }
        guard isOrphaned, let qemu else { return }
        try attempt { () throws(QemuError) in
            let wasRunning = try qemu.status().guest == "running"
            try qemu.recoverGuest()
            if !wasRunning { Console.info("the daemon ended before the switch was committed; the guest runs on here") }
        }
    }
}

extension SwitchGuard {
    static func ofDestination(_ process: pid_t, handoff directory: String?) throws(CommandFailure) -> SwitchGuard {
        try attempt { () throws(QemuError) in
            try SwitchGuard(
                [Executable.path, "guard", "--process", "\(process)"] + (directory.map { ["--directory", $0] } ?? []), passing: nil)
        }
    }

    static func ofSource(_ qemu: QemuSource, qmp: String) throws(CommandFailure) -> SwitchGuard {
        try attempt { () throws(QemuError) in
            try SwitchGuard([Executable.path, "guard", "--qmp", qmp], passing: qemu.descriptor)
        }
    }
}
