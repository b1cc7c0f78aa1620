import ArgumentParser

@main
struct PageFerryCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pageferry",
        abstract: "Moves a running machine's memory to another host after it has resumed there (post-copy).",
        version: Version.text,
        subcommands: [
            SourceCommand.self, DestinationCommand.self, CacheCommand.self, LaunchCommand.self, StatusCommand.self, RecoverCommand.self,
            DemoCommand.self, DemoMemoryCommand.self, ChaosCommand.self, Simulate.self, BenchCommand.self, CheckCommand.self,
            GuardCommand.self,
        ]
    )
}
