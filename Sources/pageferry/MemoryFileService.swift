import PageCore
import PageFerry

/// Serves immutable memory files, a region each, to any number of destinations.
struct MemoryFileService {
    let command: SourceCommand
    let paths: [String]

    func run() throws(CommandFailure) {
        var service = Service()
        let image = try attempt { () throws(SessionError) in
            try SourceImage(paths: paths, pageSize: command.pageSize.flatMap { PageSize(bytes: $0.bytes) })
        }
        try attempt { () throws(SessionError) in try image.findHoles() }
        let events = Mailbox<ImageService.Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        let listener = try command.openListener()
        service.ready("serving \(paths.joined(separator: ", ")) (\(image.layout.totalBytes >> 20) MiB) on \(listener.description)")
        var configuration = try command.serverConfiguration(features: [], mostSessions: SourceState.mostSessions)
        configuration.toldImage = { image }
        if let state { configuration = try configuration.keepingSessions(in: state) }
        let control = try DaemonControl(path: command.pause.control) { address throws(CommandFailure) in
            try command.security.check(address, command.transport)
        }
        try ImageService(
            startSession: ImageService.serving(image, command.sessionConfiguration),
            server: SourceServer(listener: listener, layout: image.layout, configuration: configuration),
            mostSessions: command.sessions, state: state, control: control, confinement: command.confinement
        ).run(events)
    }
}
