import Foundation
import Glibc
import TestSupport
import Testing
import Userfault

/// `pageferry cache`: many machines from one image, whose pages leave the source once. Every byte is compared by the machines themselves.
@Suite(
    .leavesNothing, .serialized, .enabled(if: access(Built.pageferry, X_OK) == 0 && (try? UserfaultDescriptor.supportedFeatures()) != nil))
struct CacheTests {
    let scratch: Scratch
    private let memory: String

    private static let bytes = 24 << 20

    init() throws {
        scratch = try Scratch()
        memory = try scratch.memoryFile(bytes: Self.bytes)
        // A third of it was never written, another is zeros that were.
        let file = open(memory, O_RDWR | O_CLOEXEC)
        defer { close(file) }
        try #require(file >= 0 && ftruncate(file, off_t(Self.bytes / 3)) == 0 && ftruncate(file, off_t(Self.bytes)) == 0)
        let zeros = [UInt8](repeating: 0, count: Self.bytes / 3)
        try #require(pwrite(file, zeros, zeros.count, off_t(Self.bytes / 3)) == zeros.count)
    }

    private var sourceAddress: String { "unix:\(scratch.file("source"))" }
    private var cacheAddress: String { "unix:\(scratch.file("cache"))" }

    private func source(_ options: [String] = []) throws -> Program {
        let source = try Program.pageferry(["source", "--memory", memory, "--listen", sourceAddress] + options, in: scratch)
        try #require(source.says("serving"), "\(source.errorOutput)")
        return source
    }

    private func cache(_ options: [String] = []) throws -> Program {
        let cache = try Program.pageferry(["cache", "--connect", sourceAddress, "--listen", cacheAddress] + options, in: scratch)
        try #require(cache.says("caching"), "\(cache.errorOutput)")
        return cache
    }

    /// A machine, and the daemon that fills it.
    private struct Clone {
        let daemon: Program
        let machine: Program
    }

    private func clone(_ name: String, from address: String, _ options: [String] = [], machine: [String] = ["threads=1"]) throws -> Clone {
        let handoff = scratch.file(name)
        let daemon = try Program.pageferry(
            ["destination", "--connect", address, "--no-push", "--handoff", "firecracker:\(handoff)"] + options, in: scratch)
        try #require(daemon.says("waiting for memory"), "\(daemon.errorOutput)")
        return Clone(daemon: daemon, machine: try Program(["\(Built.directory)/FirecrackerVMM", handoff, memory] + machine, in: scratch))
    }

    private func expectWhole(_ clone: Clone, location: SourceLocation = #_sourceLocation) {
        #expect(clone.machine.exitCode() == 0, "\(clone.machine.errorOutput)", sourceLocation: location)
        #expect(clone.daemon.exitCode() == 0, "\(clone.daemon.errorOutput)", sourceLocation: location)
    }

    /// What a source says it has sent in each of its sessions, in KiB.
    private func sentKiB(_ source: Program) -> [Int] {
        source.errorOutput.split(separator: "\n").compactMap { line in
            guard let text = line.components(separatedBy: "; ").last, text.hasSuffix(" KiB sent") else { return nil }
            return Int(text.dropLast(9))
        }
    }

    /// Whether some of a clone's memory is there, and by far not all of it: of what a userfaultfd watches, not of what else the
    /// process has.
    private func hasPages(_ clone: Clone) -> Bool {
        var residentKiB = 0
        var watchedKiB = 0
        for line in (fileText("/proc/\(clone.machine.process)/smaps") ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.first == "Rss:" { residentKiB = words.dropFirst().first.flatMap { Int($0) } ?? 0 }
            if words.first == "VmFlags:", words.contains("um") { watchedKiB += residentKiB }
        }
        return watchedKiB > 1000
    }

    private func end(_ programs: Program...) {
        for program in programs {
            program.signal(SIGTERM)
            #expect(program.exitCode() == 0, "\(program.errorOutput)")
        }
    }

    /// Sixteen at once take no more from the source than 1.2 times what one takes; it is once, in fact.
    @Test(arguments: [[], ["--no-push"]]) func sixteenClones(_ options: [String]) throws {
        let source = try source()
        expectWhole(try clone("alone", from: sourceAddress))
        #expect(poll(until: { sentKiB(source).count == 1 }))
        let cache = try cache(options)
        let clones = try (0..<16).map { try clone("clone\($0)", from: cacheAddress) }
        for clone in clones { expectWhole(clone) }
        #expect(cache.says("every page is here"))
        #expect(poll(until: { sentKiB(source).count == 2 }), "\(source.errorOutput)")
        let sent = sentKiB(source)
        #expect(sent[0] >= (Self.bytes / 3) >> 10)
        #expect(sent[1] * 10 <= sent[0] * 12, "one clone took \(sent[0]) KiB, sixteen took \(sent[1]) KiB")
        print("sixteen clones: \(sent[1]) KiB from the source, one alone: \(sent[0]) KiB")
        // What is whole needs no source.
        end(source)
        expectWhole(try clone("late", from: cacheAddress))
        end(cache)
        scratch.expectNothingLeft()
    }

    /// A cache of huge pages takes ordinary ones; balloons of one clone are nothing to another.
    @Test func hugePagesAndBalloons() throws {
        guard let reserve = HugePageReserve(count: 40) else { return }
        let source = try source(["--page-size", "2M"])
        let cache = try cache()
        let clones = try (0..<2).map {
            try clone("clone\($0)", from: cacheAddress, machine: ["page=2097152", "balloon=\($0 * 4)", "threads=2"])
        }
        for clone in clones { expectWhole(clone) }
        end(cache, source)
        _ = consume reserve
    }

    /// Who reads from it is told nothing but pages: a clone waits while the cache is dead, and goes on from the next.
    @Test func aCacheThatDied() throws {
        let source = try source()
        let options = ["--no-push", "--window", "4K", "--state", scratch.file("state")]
        let cache = try cache(options)
        let clone = try clone("clone", from: cacheAddress, ["--window", "4K"])
        #expect(poll(until: { hasPages(clone) }))
        cache.signal(SIGKILL)
        #expect(cache.exitCode() == 128 + SIGKILL)
        let next = try self.cache(options)
        expectWhole(clone)
        end(next, source)
    }

    /// The source dies while the cache is cold: whoever needs a page waits for it, and none is made up.
    @Test func aSourceThatDied() throws {
        let options = ["--state", scratch.file("state")]
        let first = try source(options)
        let cache = try cache(["--no-push", "--window", "4K"])
        let clone = try clone("clone", from: cacheAddress, ["--window", "4K"])
        #expect(poll(until: { hasPages(clone) }))
        first.signal(SIGKILL)
        #expect(first.exitCode() == 128 + SIGKILL)
        #expect(cache.says("paused"), "\(cache.errorOutput)")
        let second = try source(options)
        expectWhole(clone)
        end(cache, second)
    }

    /// A cache that gives up ends; the machine waits where it is, for a cache to come.
    @Test func aCacheThatGivesUp() throws {
        let source = try source()
        let cache = try cache(["--no-push", "--window", "4K", "--give-up-after", "0"])
        let clone = try clone("clone", from: cacheAddress, ["--window", "4K"])
        #expect(poll(until: { hasPages(clone) }))
        source.signal(SIGKILL)
        expectFailure(of: cache, code: 69, says: ["the cache cannot be filled"])
        #expect(clone.daemon.says("paused"))
        #expect(clone.machine.isRunning, "it waits, and sees no zeros")
    }

    @Test func whereItMayListen() throws {
        try expectRefusal(
            ["cache", "--connect", sourceAddress, "--listen", "0.0.0.0:0"], code: 64, says: ["serves its own host alone", "unix:PATH"],
            in: scratch)
        try expectRefusal(
            ["cache", "--connect", sourceAddress, "--listen", cacheAddress], code: 69, says: [scratch.file("source")], in: scratch)
    }
}
