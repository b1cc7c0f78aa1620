import ArgumentParser
import Foundation

/// `pageferry status`: what a daemon's sessions do, and what they wait for.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show what a running daemon's sessions do, and why one is paused.")

    @Option(help: ArgumentHelp("The daemon's --control socket.", valueName: "path"))
    var control: String

    @Flag(help: "As JSON.")
    var json = false

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            let sessions = try ControlSocket.ask(ControlRequest(request: "status"), at: control).status ?? []
            if json {
                let encoder = JSONEncoder()
                encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
                guard let data = try? encoder.encode(sessions) else { return }
                return print(String(decoding: data, as: UTF8.self))
            }
            if sessions.isEmpty { print("no session") }
            for session in sessions { print(Self.text(of: session)) }
        }
    }

    private static func text(of session: SessionStatus) -> String {
        let done = session.totalPages - session.missingPages
        var line =
            "\(session.side), \(session.peer): \(session.phase), \(done) of \(session.totalPages) pages, \(session.faults) faults, \(session.waitingFaults) pages waited for"
        if session.pauses > 0 { line += ", link lost \(session.pauses) times" }
        if let seconds = session.pausedSeconds { line += ", paused for \(String(format: "%.1f", seconds)) s" }
        if let obstacle = session.obstacle { line += ": \(obstacle)" }
        return line
    }
}

/// `pageferry recover`: points a destination at another address of its source.
struct RecoverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "recover",
        abstract: "Let a destination look for its source at another address, or a source listen at one more.",
        discussion: "The session goes on there at once, whether its link was lost or not.")

    @Option(help: ArgumentHelp("The daemon's --control socket.", valueName: "path"))
    var control: String

    @Option(help: ArgumentHelp("Of a destination: where its source is: HOST:PORT, [ADDRESS]:PORT or unix:PATH.", valueName: "address"))
    var connect: String?

    @Option(help: ArgumentHelp("Of a source: where to listen too.", valueName: "address"))
    var listen: String?

    func validate() throws {
        guard (connect == nil) != (listen == nil) else {
            throw ValidationError("give --connect ADDRESS to a destination, or --listen ADDRESS to a source")
        }
    }

    func run() throws {
        try reportingFailure { () throws(CommandFailure) in
            let request = connect == nil ? "listen" : "recover"
            _ = try ControlSocket.ask(ControlRequest(request: request, address: connect ?? listen), at: control)
        }
    }
}
