import ArgumentParser
import Demonstration
import Foundation
import PageCore
import PageFerry
import Verbs

/// `pageferry demo-memory`: post-copy between two processes, without a VMM.
struct DemoMemoryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo-memory",
        abstract: "Move memory between two processes while it is in use, and compare every byte.",
        discussion: "Between two hosts: --serve on one, --from with the same address and --size on the other.")

    @Option(help: ArgumentHelp("How much memory to move.", valueName: "size"))
    var size = SizeArgument(bytes: 1 << 30)

    @Option(help: "Seed of the access patterns.")
    var seed: UInt64 = 1

    @Option(help: "Bulk lanes beside the urgent lane.")
    var bulkLanes = 2

    @Option(help: "How pages travel: tcp (a unix socket unless --host is given), or rdma.")
    var transport = TransportChoice.tcp

    @Option(
        help: ArgumentHelp(
            "An address of this host to move the memory over; RDMA takes its first device's by default.", valueName: "address"))
    var host: String?

    @Option(help: "Over RDMA, who moves the pages nobody asked for: read (the destination) or write (the source).")
    var push = PushMethod.read

    @Option(help: ArgumentHelp("Only make the memory and serve it here, once for each kind of memory.", valueName: "address"))
    var serve: String?

    @Option(help: ArgumentHelp("Only take the memory, from the host that serves it there.", valueName: "address"))
    var from: String?

    @Option(
        help: ArgumentHelp(
            "With --from: give up when the link has been lost for so long; 0 gives up at once.", valueName: "seconds"))
    var giveUpAfter = 15

    @Option(help: ArgumentHelp("Write the reports to this file as JSON.", valueName: "file"))
    var json: String?

    func validate() throws {
        guard (0...1_000_000).contains(giveUpAfter) else { throw ValidationError("--give-up-after takes 0 to 1000000 seconds") }
        guard size.bytes >= 1 << 20, size.bytes % (2 << 20) == 0 else {
            throw ValidationError("--size takes a multiple of 2M")
        }
        guard serve == nil || from == nil else { throw ValidationError("give --serve on one host and --from on the other") }
        guard serve == nil || json == nil else { throw ValidationError("--json goes where the reports are: with --from") }
        guard host == nil || (serve == nil && from == nil) else { throw ValidationError("--host is for both sides on one host") }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            if let serve { return try serveMemory(on: serve) }
            var configuration = MemoryDemonstration.Configuration(executablePath: Executable.path)
            configuration.lengthBytes = size.bytes
            configuration.seed = seed
            configuration.bulkLanes = bulkLanes
            configuration.transport = transport
            configuration.session.push = push
            configuration.sourceAddress = from
            // On one host nobody starts the source again.
            if from != nil { configuration.session.pauseNanoseconds = UInt64(giveUpAfter) * 1_000_000_000 }
            if from == nil { configuration.host = if let host { host } else { try deviceAddress() } }
            var reports: [MemoryDemonstration.Report] = []
            for kind in MemoryKind.allCases {
                do throws(DemonstrationError) {
                    let report = try MemoryDemonstration(configuration).run(kind)
                    print(text(of: report))
                    reports.append(report)
                } catch {
                    throw CommandFailure(error.description, .software)
                }
            }
            if let json { try JSONFile.write(reports, to: json) }
            if !reports.allSatisfy(\.isRight) { throw CommandFailure("memory differs; see above", .software) }
        }
    }

    /// The source's side alone: what `pageferry source --memory` does, on the demonstration's memory.
    private func serveMemory(on address: String) throws(CommandFailure) {
        let image: MemoryImage
        do throws(DemonstrationError) {
            image = try MemoryImage(lengthBytes: size.bytes)
        } catch {
            throw CommandFailure(error.description, .operatingSystem)
        }
        let arguments = [
            "--memory", image.path, "--listen", address, "--transport", transport.rawValue, "--sessions", "\(MemoryKind.allCases.count)",
            // A pattern is no secret.
            "--insecure",
        ]
        let source: SourceCommand
        do {
            source = try SourceCommand.parse(arguments)
        } catch {
            throw CommandFailure(SourceCommand.message(for: error), .usage)
        }
        try MemoryFileService(command: source, paths: [image.path]).run()
        _ = consume image
    }

    /// Where RDMA leads on this host; nil when it is not wanted.
    private func deviceAddress() throws(CommandFailure) -> String? {
        guard transport == .rdma else { return nil }
        do throws(VerbsError) {
            for device in try DeviceDescription.all() {
                if let address = device.addresses.first { return address }
            }
        } catch {
            throw CommandFailure(error.description, .unavailable)
        }
        throw CommandFailure("this host has no RDMA device with an IPv4 address; `pageferry check` says what is missing", .unavailable)
    }

    private func text(of report: MemoryDemonstration.Report) -> String {
        func format(_ value: Double) -> String { String(format: "%.1f", value) }
        let speed = Double(report.contentBytes) / report.lastPageMilliseconds / 1e6
        var lines = [
            "\(report.kind.rawValue) memory, \(report.bytes >> 20) MiB: \(report.isRight ? "every byte right" : "WRONG: \(report.wrongPages) pages")",
            "  last page after \(format(report.lastPageMilliseconds)) ms, \(String(format: "%.2f", speed)) GB/s of content",
            "  \(report.faults) faults: p50 \(format(report.faultP50Microseconds)) us, p99 \(format(report.faultP99Microseconds)) us, max \(format(report.faultMaxMicroseconds)) us",
            "  pages: \(report.demandPages) demanded, \(report.windowPages) window, \(report.pushPages) pushed, \(report.zeroPages) zero",
        ]
        if report.lostLinks > 0 { lines.append("  the link was lost, and found again: \(report.lostLinks) times") }
        for thread in report.threads {
            lines.append(
                "  \(thread.pattern): \(thread.pages) pages compared, \(thread.wrongPages) wrong, \(thread.waits) waits, p50 \(format(thread.waitP50Microseconds)) us, p99 \(format(thread.waitP99Microseconds)) us"
            )
        }
        return lines.joined(separator: "\n")
    }
}
