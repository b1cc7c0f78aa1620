import Foundation
import PageCore
import PageFerry
import ProcessMemory

/// Serves the memory of a stopped process to any number of destinations. It neither stops the process nor lets it go on: that is for
/// whoever moves it, and so is its end.
struct ProcessService {
    let command: SourceCommand
    let process: Int32

    func run() throws(CommandFailure) {
        var service = Service()
        let image = try attempt { () throws(ProcessMemoryError) in try ProcessImage(process: process) }
        let events = Mailbox<ImageService.Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        let listener = try command.openListener()
        if let path = command.layout { try write(image.layoutText, to: path) }
        var configuration = try command.serverConfiguration(features: [], mostSessions: SourceState.mostSessions)
        if let state {
            try keepStanding(of: image, in: state)
            configuration = try configuration.keepingSessions(in: state)
        }
        service.ready(
            "serving process \(process) (\(image.layout.totalBytes >> 20) MiB in \(image.layout.count) regions) on \(listener.description)")
        let control = try DaemonControl(path: command.pause.control) { address throws(CommandFailure) in
            try command.security.check(address, command.transport)
        }
        let sessions = command.sessionConfiguration
        try ImageService(
            startSession: { SourceSession($0, source: image, configuration: sessions, notify: $1) },
            server: SourceServer(listener: listener, layout: image.layout, configuration: configuration),
            mostSessions: command.sessions, state: state, control: control, confinement: command.confinement,
            verify: { () throws(CommandFailure) in
                try attempt { () throws(ProcessMemoryError) in try image.verifyStopped() }
            }
        ).run(events)
    }

    private func write(_ text: String, to path: String) throws(CommandFailure) {
        do {
            try Data(text.utf8).write(to: URL(filePath: path), options: .atomic)
        } catch {
            throw CommandFailure("cannot write \(path): \(error.localizedDescription)", .cannotCreate)
        }
    }

    /// Sessions that a daemon before this one began go on only if the process has not run since: they have had part of what it held then.
    private func keepStanding(of image: ProcessImage, in state: StateDirectory) throws(CommandFailure) {
        let hasSessions = !state.names(prefix: SourceState.prefix).isEmpty
        if hasSessions, let left = try state.read(ProcessImage.Standing.self, from: Self.standingName), left != image.standing {
            throw CommandFailure(
                "'\(state.path)' is of a process that has run since, or of another one; remove it if no destination depends on it",
                .dataError)
        }
        try state.write(image.standing, to: Self.standingName)
    }

    private static let standingName = "process.json"
}
