import ArgumentParser
import Glibc
import Handoff

/// `pageferry launch`: becomes a QEMU whose memory is handed over, for those who start QEMU themselves.
struct LaunchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "launch",
        abstract: "Become the QEMU of a command line; where it waits for a migration, its memory is handed over.",
        discussion: """
            For whoever starts QEMU themselves (Documentation/Qemu.md). Without -incoming the command line is run as it is. With it, QEMU
            finds the preload library in its environment and hands its memory over to the `pageferry destination --handoff PATH --qmp PATH`
            that must be waiting.
            """
    )

    @Option(help: ArgumentHelp("The socket on which a destination waits for the memory.", valueName: "path"))
    var handoff: String

    @Option(
        help: ArgumentHelp("Give QEMU one more QMP socket here, for `pageferry source --qmp` and `destination --qmp`.", valueName: "path"))
    var qmp: String?

    @Option(
        help: ArgumentHelp("The preload library that hands QEMU's memory over; found beside this program by default.", valueName: "path"))
    var shim: String?

    @Argument(parsing: .postTerminator, help: ArgumentHelp("The command that starts QEMU.", valueName: "command"))
    var command: [String] = []

    func validate() throws {
        guard !command.isEmpty else { throw ValidationError("give the command that starts QEMU after `--`") }
        if let qmp, qmp.contains(",") { throw ValidationError("the path of --qmp has a comma, which QEMU would take for a separator") }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in try launch() }
    }

    private func launch() throws(CommandFailure) -> Never {
        var arguments = command
        if let qmp { arguments += ["-qmp", "unix:\(qmp),server=on,wait=off"] }
        guard QemuCommandLine.isIncoming(arguments) else { try become(arguments) }
        let commandLine = try attempt { () throws(QemuError) in try QemuCommandLine(arguments, isLaunched: true) }
        guard let shim = shim ?? Executable.companion("libpageferry-preload.so") else {
            throw CommandFailure("libpageferry-preload.so is not beside this program; give its path with --shim", .configuration)
        }
        // Stays open in QEMU, and in what drops its privileges before it.
        let device = UserfaultDevice()
        if let descriptor = device.descriptor { _ = fcntl(descriptor, F_SETFD, 0) }
        let added = try attempt { () throws(QemuError) in
            try commandLine.preloadEnvironment(preloadLibrary: shim, handoffPath: handoff, userfaultDevice: device.descriptor)
        }
        // SAFETY: names and values are terminated and live for the calls, which copy them.
        for (name, value) in added { unsafe setenv(name, value, 1) }
        try become(arguments)
    }

    private func become(_ arguments: [String]) throws(CommandFailure) -> Never {
        // SAFETY: the strings live until this process is another program; execvp comes back only when it failed.
        var vector = unsafe arguments.map { unsafe strdup($0) } + [nil]
        unsafe execvp(arguments[0], &vector)
        throw CommandFailure(QemuError.cannotStart(program: arguments[0], code: errno))
    }
}
