import Glibc
import PageCore
import Testing

@testable import Handoff

/// A source and a destination on one RAM file: only machine state has to travel between them.
final class QemuPair {
    let scratch = QemuScratch()
    let sourceQemu: RunningQemu
    let source: QemuSource
    private(set) var running: RunningDestination?
    private(set) var relay: StreamRelay?

    var destination: QemuDestination { running!.qemu }

    init(_ options: [String] = [], sourceOptions: [String] = []) throws {
        sourceQemu = try RunningQemu(RunningQemu.arguments([scratch.fileBackend()], options + sourceOptions), scratch)
        source = try QemuSource(connectingTo: scratch.monitor)
        running = try RunningDestination(RunningQemu.arguments([scratch.fileBackend()], options))
    }

    /// Starts the migration of a prepared source, with a relay between the two.
    func begin(cutAfterBytes: Int = .max) throws {
        let incoming = try destination.beginIncoming()
        let outgoing = try source.beginMigration()
        relay = StreamRelay(source: outgoing, destination: incoming, cutAfterBytes: cutAfterBytes)
    }

    /// The whole of a migration that goes well, up to the moment of the commit.
    func migrate() throws {
        try source.prepare()
        try begin()
        _ = try source.waitForStop(deadlineNanoseconds: inSeconds(20))
        try destination.waitForLoaded(deadlineNanoseconds: inSeconds(20))
        try source.waitForCompletion(deadlineNanoseconds: inSeconds(20))
    }

    /// Keeps the next migration under way, its guest running, for as long as its test lasts: 60 KB at 4 KB/s.
    func slowDown() throws {
        try source.client.execute("migrate-set-parameters", ["max-bandwidth": 4096])
    }

    func speedUp() throws {
        try source.client.execute("migrate-set-parameters", ["max-bandwidth": .integer(1 << 40)])
    }

    /// A destination in place of the one that is there, which has ended or is ended.
    func replaceDestination() throws {
        running = nil
        running = try RunningDestination(RunningQemu.arguments([scratch.fileBackend()]))
    }

    /// What prepare changes, as QEMU has it now.
    func settings() throws -> [JSONValue] {
        let parameters = try source.client.execute("query-migrate-parameters")
        return [
            try source.client.execute("query-migrate-capabilities"), parameters["max-bandwidth"] ?? .null,
            parameters["downtime-limit"] ?? .null,
        ]
    }
}
