import Foundation
import Glibc
import PageCore
import PageFerry
import Synchronization

/// Post-copy between real daemons that are killed, over lanes that are cut, at random moments, while threads use the memory and
/// compare every byte.
public struct ChaosDemonstration {
    public struct Configuration: Sendable {
        public var executablePath: String
        public var lengthBytes = 64 << 20
        public var seed: UInt64 = 1
        /// Bytes a second and lane, so that there is time for something to happen.
        public var laneBytesPerSecond = 150 << 20
        /// A guest for every tenth round; nil moves memory alone.
        public var guest: GuestImage?

        public init(executablePath: String) { self.executablePath = executablePath }
    }

    /// What befell one round, and how it ended.
    public struct Report: Sendable, Codable {
        public var round: Int
        /// Of memory that is handed over; nil of a machine.
        public var kind: MemoryKind?
        public var seconds: Double
        public var cuts = 0
        public var sourceKills = 0
        public var destinationKills = 0
        public var bothKills = 0
        public var takeovers = 0
        public var comparedPages = 0
        public var wrongPages = 0
        /// Why the round failed; nil when every page came, each right.
        public var failure: String?
        public var isRight: Bool { failure == nil && wrongPages == 0 }
    }

    private enum Mishap: CaseIterable { case cut, killSource, killDestination, killBoth }

    private static let roundNanoseconds: UInt64 = 120_000_000_000

    private let configuration: Configuration

    public init(_ configuration: Configuration) { self.configuration = configuration }

    /// One migration under fire.
    public func run(round: Int) throws(DemonstrationError) -> Report {
        if round % 10 == 0, let guest = configuration.guest { return try runMachine(guest, round: round) }
        var random = SeededRandom(seed: configuration.seed &+ UInt64(round) &* 0x9E37_79B9)
        let kind = MemoryKind.allCases[round % MemoryKind.allCases.count]
        let directory = try PrivateDirectory()
        defer { withExtendedLifetime(directory) {} }
        let image = try MemoryImage(lengthBytes: configuration.lengthBytes)
        let daemons = ChaosDaemons(configuration.executablePath, memory: image.path, directory: directory.path)
        let relay = try CuttingRelay(
            path: "\(directory.path)/relay", to: "\(directory.path)/source", bytesPerSecond: configuration.laneBytesPerSecond)
        defer { relay.stop() }
        let start = MonotonicClock.nowNanoseconds()
        try daemons.start()
        let host = try ChaosHost(kind: kind, lengthBytes: configuration.lengthBytes, path: daemons.handoffPath)
        let accessors = MemoryAccessors(host.memory, keeping: host)
        accessors.start(seed: random.next())
        // Before the session has begun nothing can be lost. The page is looked at: a mere read might be optimized away.
        let first = (0..<host.memory.pageCount).first { MemoryPattern.content(of: $0) == .data } ?? 0
        let isFirstRight = host.memory.isRight(first, version: 0)
        var report = Report(round: round, kind: kind, seconds: 0)
        try torment(daemons, relay, &random, &report)
        report.failure = daemons.finish(before: start + Self.roundNanoseconds)
        if report.failure != nil { host.release() }
        let threads = accessors.finish()
        host.finish()
        report.takeovers = host.takeovers
        report.comparedPages = threads.reduce(host.memory.pageCount) { $0 + $1.pages }
        report.wrongPages =
            threads.reduce(isFirstRight ? 0 : 1) { $0 + $1.wrongPages }
            + (0..<host.memory.pageCount).count { !host.memory.isRight($0, version: 1) }
        report.seconds = Double(MonotonicClock.nowNanoseconds() - start) / 1e9
        _ = consume image
        return report
    }

    /// One machine that runs while it is moved, and counts its own errors: from the moment it runs at the destination, nothing may
    /// be lost.
    private func runMachine(_ image: GuestImage, round: Int) throws(DemonstrationError) -> Report {
        var random = SeededRandom(seed: configuration.seed &+ UInt64(round) &* 0x9E37_79B9)
        var report = Report(round: round, kind: nil, seconds: 0)
        let schedule = GuestSchedule()
        let directory = try PrivateDirectory()
        let sourceMemory = MemoryBackingFile("source")
        let destinationMemory = MemoryBackingFile("destination")
        defer { withExtendedLifetime((directory, sourceMemory, destinationMemory)) {} }
        let start = MonotonicClock.nowNanoseconds()
        let qmp = "\(directory.path)/qmp"
        let source = try GuestMachine(
            image, shape: .file(sourceMemory.path), consolePath: "\(directory.path)/source.console",
            extra: ["-qmp", "unix:\(qmp),server=on,wait=off"])
        let sourceProcess = try source.start()
        try source.waitForTicks(schedule.ticksBefore)
        let destination = try GuestMachine(
            image, shape: .file(destinationMemory.path), consolePath: "\(directory.path)/destination.console",
            extra: ["-pidfile", "\(directory.path)/destination.pid"])
        let end = DestinationEnd(pidFile: "\(directory.path)/destination.pid")
        let relay = try CuttingRelay(
            path: "\(directory.path)/relay", to: "\(directory.path)/source", bytesPerSecond: configuration.laneBytesPerSecond / 8)
        defer { relay.stop() }
        let daemons = ChaosDaemons(configuration.executablePath, qmp: qmp, machine: destination, directory: directory.path)
        try daemons.start()
        destination.port.start()
        let deadline = start + Self.roundNanoseconds
        while !daemons.isMachineResumed, daemons.isDestinationRunning, MonotonicClock.nowNanoseconds() < deadline { _ = poll(nil, 0, 2) }
        try torment(daemons, relay, &random, &report)
        report.failure = daemons.finish(before: deadline)
        sourceProcess.end()
        if report.failure == nil { try schedule.finish(destination) }
        end.end()
        source.port.stop()
        destination.port.stop()
        let account = GuestAccount(source: source.log(), destination: destination.log(continuing: source.port.unfinished))
        if report.failure == nil, !account.faults.isEmpty { report.failure = "the guest says: \(account.faults.joined(separator: "; "))" }
        report.seconds = Double(MonotonicClock.nowNanoseconds() - start) / 1e9
        return report
    }

    /// Lets one thing after the other happen, until the session is over or enough has.
    private func torment(
        _ daemons: ChaosDaemons, _ relay: CuttingRelay, _ random: inout SeededRandom, _ report: inout Report
    ) throws(DemonstrationError) {
        for _ in 0..<(1 + random.next(below: 6)) {
            // A moment drawn at random: what it meets is what is tested.
            _ = poll(nil, 0, Int32(random.next(below: 120)))
            guard daemons.isDestinationRunning else { return }
            switch Mishap.allCases[random.next(below: Mishap.allCases.count)] {
            case .cut:
                relay.cut()
                report.cuts += 1
            case .killSource:
                try daemons.restartSource()
                report.sourceKills += 1
            case .killDestination:
                guard try daemons.restartDestination() else { return }
                report.destinationKills += 1
            case .killBoth:
                guard try daemons.restartDestination() else { return }
                try daemons.restartSource()
                report.bothKills += 1
            }
        }
    }
}
