import ArgumentParser
import Demonstration

/// `pageferry demo`: a real guest, moved by PageFerry and then by QEMU itself.
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Post-copy a QEMU guest under load, check it, and compare with QEMU's own post-copy.",
        discussion: "`make demo` makes the guest first.")

    @Option(help: ArgumentHelp("Where perf/guest/make-guest left the guest.", valueName: "directory"))
    var guest = "perf/guest/out"

    @Option(help: ArgumentHelp("Write both reports to this file as JSON.", valueName: "file"))
    var json: String?

    @Flag(help: "Leave out the comparison with QEMU's own post-copy.")
    var withoutNative = false

    @Flag(help: "Compare with QEMU's own post-copy without its preempt channel too.")
    var withPlain = false

    @Flag(help: "Move over the link that perf/link/with-link has made around this command, in place of loopback.")
    var overLink = false

    @Option(help: ArgumentHelp("The library that times QEMU's faults; found beside this program by default.", valueName: "path"))
    var probe: String?

    @Option(
        name: .customLong("destination-option"), parsing: .unconditionalSingleValue,
        help: ArgumentHelp("Pass this to `pageferry destination`; may be repeated.", valueName: "option"))
    var destinationOptions: [String] = []

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            do throws(DemonstrationError) {
                try demonstrate()
            } catch {
                throw CommandFailure(error.description, .software)
            }
        }
    }

    private func demonstrate() throws(DemonstrationError) {
        let image = try GuestImage(directory: guest)
        var migration = FerryMigration(image: image, executablePath: Executable.path) { Console.info("PageFerry: \($0)") }
        migration.destinationOptions = destinationOptions
        let link = overLink ? try MigrationLink.ofEnvironment() : .loopback
        migration.link = link
        let ours = try migration.run()
        var native: MigrationReport?
        var plain: MigrationReport?
        if !withoutNative {
            guard let probe = probe ?? Executable.companion("libpageferry-fault-probe.so") else {
                throw DemonstrationError("libpageferry-fault-probe.so is not beside this program; give its path with --probe")
            }
            var peer = NativeMigration(image: image, probePath: probe) { Console.info("QEMU: \($0)") }
            peer.link = link
            native = try peer.run()
            peer.usesPreempt = false
            if withPlain { plain = try peer.run() }
        }
        let report = ComparisonReport(ours: ours, native: native, nativeWithoutPreempt: plain)
        print(report.table())
        for fault in ours.guest.faults { Console.error("PageFerry: \(fault)") }
        for fault in (native?.guest.faults ?? []) + (plain?.guest.faults ?? []) { Console.error("QEMU: \(fault)") }
        if let json {
            do throws(CommandFailure) { try JSONFile.write(report, to: json) } catch { throw DemonstrationError(error.text) }
        }
        guard report.isRight else { throw DemonstrationError("a guest is not as it was; see above") }
    }
}
