import ArgumentParser

@main
struct PageFerryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pageferry",
        abstract: "Moves a running machine's memory to another host after it has resumed there (post-copy).",
        version: "0.1.0",
        subcommands: [
            SourceCommand.self, DestinationCommand.self, StatusCommand.self, RecoverCommand.self, DemoCommand.self, DemoMemoryCommand.self, ChaosCommand.self, Simulate.self, BenchCommand.self, CheckCommand.self,
            GuardCommand.self,
        ]
    )
}
