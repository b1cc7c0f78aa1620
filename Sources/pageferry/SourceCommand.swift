import ArgumentParser
import Glibc
import Handoff
import HostMemory
import PageCore
import PageFerry
import PageWire
import SecureStream
import StreamTransport

/// `pageferry source`: serves the memory of a machine, or of a file, to destinations.
struct SourceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "source",
        abstract: "Serve a virtual machine (--qmp), a memory file (--memory) or a stopped process's memory (--pid) to another host.",
        discussion: """
            With --qmp, one destination takes the running machine over: it is stopped here and resumes there, and its pages follow.
            Until the switch is committed any failure leaves the machine running here.
            With --memory, any number of destinations may pull the file, which must not change meanwhile.
            With --pid, any number of destinations may pull the memory of a process that somebody has stopped and keeps stopped; --layout
            tells where it lies.
            """
    )

    @Option(help: ArgumentHelp("QMP socket of a running QEMU.", valueName: "path"))
    var qmp: String?

    @Option(
        help: ArgumentHelp(
            "Memory file to serve: a snapshot's memory, an image. Given several times: a region each, in this order.", valueName: "path"))
    var memory: [String] = []

    @Option(
        help: ArgumentHelp(
            "Process whose memory to serve; all its threads are stopped (SIGSTOP, ptrace, a frozen cgroup).", valueName: "pid"))
    var pid: Int32?

    @Option(help: ArgumentHelp("With --pid: write here which addresses make which region, before anything is served.", valueName: "file"))
    var layout: String?

    @Option(
        help: ArgumentHelp(
            "Serve the memory file in pages of this size: 4K, or 2M when it is for a machine on huge pages; the file's own by default.",
            valueName: "size"))
    var pageSize: SizeArgument?

    @Option(help: ArgumentHelp("Where to listen: HOST:PORT, [ADDRESS]:PORT or unix:PATH.", valueName: "address"))
    var listen = "127.0.0.1:7700"

    @Option(help: "How pages travel: tcp, rdma, or auto, which offers both.")
    var transport = TransportChoice.tcp

    @Option(help: "Largest number of bulk lanes granted to a destination.")
    var bulkLanes = 4

    @Option(help: "Serve this many sessions of a memory file or a process, then end; 0 serves until stopped.")
    var sessions = 0

    @OptionGroup var polling: PollArguments

    @OptionGroup(title: "Security") var security: SecurityArguments

    @OptionGroup var pause: PauseArguments

    @OptionGroup var confinement: ConfinementArguments

    @Option(
        help: ArgumentHelp(
            "Keep here what a daemon needs that is started again after this one has died; a directory of its own.", valueName: "directory"))
    var state: String?

    @Option(help: ArgumentHelp("Write what happened to this file as JSON.", valueName: "file"))
    var json: String?

    @Flag(help: "End the QEMU here once every page is at the destination.")
    var quitSource = false

    func validate() throws {
        guard [qmp != nil, !memory.isEmpty, pid != nil].count(where: { $0 }) == 1 else {
            throw ValidationError(
                "give one of --qmp PATH (a running machine), --memory PATH (a memory file) and --pid PID (a stopped process)")
        }
        guard layout == nil || pid != nil else { throw ValidationError("--layout goes with --pid: other memory has no addresses here") }
        guard pid == nil || transport != .rdma else {
            throw ValidationError("a process's memory is read page by page, and goes over TCP alone; leave --transport rdma out")
        }
        guard pageSize == nil || !memory.isEmpty else {
            throw ValidationError("--page-size goes with --memory; a running machine has its own")
        }
        if let pageSize, PageSize(bytes: pageSize.bytes) == nil { throw ValidationError("--page-size takes 4K or 2M") }
        guard (0...15).contains(bulkLanes) else { throw ValidationError("--bulk-lanes takes 0 to 15") }
        guard sessions >= 0, sessions <= 1_000_000 else { throw ValidationError("--sessions takes 0 or more") }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            if let qmp {
                try QemuSourceMigration(command: self, qmpPath: qmp).run()
            } else if let pid {
                try ProcessService(command: self, process: pid).run()
            } else {
                try MemoryFileService(command: self, paths: memory).run()
            }
        }
    }

    /// RDMA reads memory where it lies, which a process's does not here.
    private var offeredTransport: TransportChoice { pid == nil ? transport : .tcp }

    /// Listens, and says why not by RDMA when that was tried.
    func openListener() throws(CommandFailure) -> SourceListener {
        let address = try attempt { () throws(StreamError) in try StreamAddress(parsing: listen) }
        let transport = offeredTransport
        try security.check(address, transport)
        let stream: StreamListener? =
            transport == .rdma ? nil : try attempt { () throws(StreamError) in try StreamListener(onLingering: address) }
        let listener: SourceListener
        do throws(SessionError) {
            listener = try SourceListener(stream, on: address, transport: transport)
        } catch { throw CommandFailure(error) }
        if let fallback = listener.fallback { Console.info("TCP only: \(fallback)") }
        return listener
    }

    var sessionConfiguration: SourceSession.Configuration {
        var configuration = SourceSession.Configuration()
        configuration.polling = polling.polling
        configuration.pauseNanoseconds = pause.nanoseconds(orElse: qmp == nil ? 600_000_000_000 : .max)
        return configuration
    }

    func serverConfiguration(features: ProtocolFeatures, mostSessions: Int) throws(CommandFailure) -> SourceServer.Configuration {
        var configuration = SourceServer.Configuration()
        configuration.features = features
        configuration.security = try security.security(.server)
        // RDMA has a control lane beside the urgent one.
        configuration.mostLanes = min(Hello.mostLanes, (offeredTransport == .tcp ? 1 : 2) + bulkLanes)
        configuration.mostSessions = mostSessions
        return configuration
    }
}
