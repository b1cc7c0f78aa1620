import ArgumentParser
import PageCore
import PageFerry
import StreamTransport

/// `pageferry cache`: one copy of a source's memory on this host, for all the destinations here.
struct CacheCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cache",
        abstract: "Keep one copy of a memory file on this host, and serve it to all the destinations here.",
        discussion: """
            Each page is fetched from the source once, however many machines start from it: at once when one of them needs it, and behind
            that all the others, unless --no-push is given. It takes as much memory as what it has fetched, at most the file's size.
            """
    )

    @OptionGroup var paging: PagingArguments

    @Option(help: ArgumentHelp("Where this host's destinations connect: unix:PATH, or a port of loopback.", valueName: "address"))
    var listen: String

    @Option(
        help: ArgumentHelp(
            "Keep here what a daemon needs that is started again after this one has died; a directory of its own.", valueName: "directory"))
    var state: String?

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in try serve() }
    }

    private func serve() throws(CommandFailure) {
        var service = Service()
        let events = Mailbox<ImageService.Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let state: StateDirectory? = if let path = state { try StateDirectory(path) } else { nil }
        let listener = try listener()
        let connector = try paging.connector(features: [])
        let layout = connector.layout
        let cached = try attempt { () throws(SessionError) in try CachedImage(of: layout) }
        if !paging.noPush { try paging.prefault(cached.regions, from: connector) }
        let opened: OpenedDestination
        do throws(SessionError) { opened = try connector.accept(cached.regions) } catch { throw CommandFailure(error) }
        let control = try DaemonControl(path: paging.pause.control) { address throws(CommandFailure) in
            try paging.security.check(address, paging.transport)
        }
        let session = DestinationSession(
            opened, regions: cached.regions, machineState: nil, configuration: try paging.sessionConfiguration(for: opened.layout)
        ) { events.post(.filling($0)) }
        _ = control.addDestination(session, peer: paging.connect)
        var configuration = SourceServer.Configuration()
        configuration.mostSessions = SourceState.mostSessions
        if let state { configuration = try configuration.keepingSessions(in: state) }
        var sessions = SourceSession.Configuration()
        sessions.polling = paging.polling.polling
        sessions.pauseNanoseconds = paging.pause.nanoseconds(orElse: 600_000_000_000)
        service.ready("caching \(paging.connect) (\(opened.layout.totalBytes >> 20) MiB) on \(listener.description)")
        try ImageService(
            startSession: ImageService.serving(cached.image, sessions),
            server: SourceServer(listener: listener, layout: cached.image.layout, configuration: configuration), mostSessions: 0,
            state: state, control: control, confinement: paging.confinement,
            filling: { notice throws(CommandFailure) in try follow(notice, session) }
        ).run(events)
        withExtendedLifetime((session, cached)) {}
    }

    private func listener() throws(CommandFailure) -> SourceListener {
        let address = try attempt { () throws(StreamError) in try StreamAddress(parsing: listen) }
        guard try attempt({ () throws(StreamError) in try address.isLocal }) else {
            throw CommandFailure("\(address) is beyond this host, and a cache serves its own host alone; listen on unix:PATH", .usage)
        }
        let stream = try attempt { () throws(StreamError) in try StreamListener(onLingering: address) }
        do throws(SessionError) { return try SourceListener(stream, on: address, transport: .tcp) } catch { throw CommandFailure(error) }
    }

    /// What becomes of the session that fills the cache.
    private func follow(_ notice: DestinationNotice, _ session: DestinationSession) throws(CommandFailure) {
        switch notice {
        case .ended(nil):
            session.join()
            Console.info("every page is here: \(Console.line(session.statistics.read()))")
        case .ended(let reason?):
            throw CommandFailure("the cache cannot be filled: \(reason)", CommandFailure(reason).status)
        case .paused(let error): Console.lost(error)
        case .restored: Console.info("the source was found again")
        default: break
        }
    }
}
