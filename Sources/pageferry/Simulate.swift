import ArgumentParser
import Glibc
import PageCore
import PageEngine
import PageFerry
import PageSimulation
import Synchronization

/// `pageferry simulate`: sessions under a virtual clock, many seeds or one.
struct Simulate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate",
        abstract: "Run simulated sessions, every invariant checked; the same seed is the same session.")

    @Option(help: "How many seeds to run.")
    var seeds = 1_000

    @Option(help: "The first of them.")
    var first: UInt64 = 0

    @Option(help: "Run this one seed only, and report it.")
    var seed: UInt64?

    @Flag(help: "With --seed: print every event.")
    var trace = false

    @Option(help: ArgumentHelp("Inject a deliberate fault, to see it caught.", valueName: "name"))
    var bug: SeededBug?

    func validate() throws {
        guard seeds > 0 else { throw ValidationError("--seeds takes 1 or more") }
        guard !trace || seed != nil else { throw ValidationError("--trace goes with --seed") }
    }

    func run() throws {
        if let seed { try runOne(seed) } else { try runMany() }
    }

    private func runOne(_ seed: UInt64) throws {
        do throws(SimulationFailure) {
            let outcome = try Simulation.run(seed: seed, bug: bug, trace: trace ? { print($0) } : nil)
            let end = outcome.isLaneLost ? "a lane was broken, and nothing half-written was left" : "every page right"
            print("seed \(seed): \(outcome.pages) pages over \(outcome.lanes) lanes in \(outcome.nanoseconds) virtual ns; \(end)")
            print(
                "  \(outcome.faults) faults, the longest \(outcome.longestFaultNanoseconds) of \(outcome.faultBoundNanoseconds) ns allowed; \(outcome.events) events"
            )
            let counts = outcome.destination
            print(
                "  pages: \(counts.demand) demanded, \(counts.window) window, \(counts.push) pushed, \(counts.zero) zero, \(counts.removed) given up, \(counts.dropped) dropped"
            )
        } catch {
            print(error)
            throw ExitCode.failure
        }
    }

    private func runMany() throws {
        let cores = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        let batch = SeedBatch(first: first, count: seeds, bug: bug)
        let start = MonotonicClock.nowNanoseconds()
        let threads = (0..<min(cores, seeds)).map { number in
            DedicatedThread(name: "simulate\(number)") { batch.work(reportsProgress: number == 0) }
        }
        for thread in threads { thread.join() }
        Console.progress("")
        if let failure = batch.failure {
            print(failure)
            throw ExitCode.failure
        }
        let nanoseconds = max(1, MonotonicClock.nowNanoseconds() - start)
        let rate = Int(Double(seeds) * 1e9 / Double(nanoseconds))
        print(
            "\(seeds) sessions held every invariant: \(batch.pages) pages, \(batch.faults) faults, \(batch.lost) links lost for good, \(batch.found) found again, \(batch.silences) silences, \(batch.second) links taken in place of one believed sound, \(batch.dead) daemons dead at the destination; \(rate) sessions/s"
        )
    }
}

extension SeededBug: ExpressibleByArgument {}

/// Seeds shared out to threads one at a time; the failure with the smallest seed is kept.
private final class SeedBatch: Sendable {
    private let first: UInt64
    private let count: Int
    private let bug: SeededBug?
    private let next = Atomic<Int>(0)
    private let totalPages = Atomic<Int>(0)
    private let totalFaults = Atomic<Int>(0)
    private let totalLost = Atomic<Int>(0)
    private let totalFound = Atomic<Int>(0)
    private let totalDead = Atomic<Int>(0)
    private let totalSilences = Atomic<Int>(0)
    private let totalSecond = Atomic<Int>(0)
    private let firstFailure = Mutex<SimulationFailure?>(nil)

    init(first: UInt64, count: Int, bug: SeededBug?) {
        self.first = first
        self.count = count
        self.bug = bug
    }

    var failure: SimulationFailure? { firstFailure.withLock { $0 } }
    var pages: Int { totalPages.load(ordering: .relaxed) }
    var faults: Int { totalFaults.load(ordering: .relaxed) }
    var lost: Int { totalLost.load(ordering: .relaxed) }
    var found: Int { totalFound.load(ordering: .relaxed) }
    var silences: Int { totalSilences.load(ordering: .relaxed) }
    var second: Int { totalSecond.load(ordering: .relaxed) }
    var dead: Int { totalDead.load(ordering: .relaxed) }

    /// Runs seeds until none are left or one has failed.
    func work(reportsProgress: Bool) {
        while failure == nil {
            let number = next.add(1, ordering: .relaxed).oldValue
            guard number < count else { return }
            if reportsProgress, Console.isTerminal, number & 0xFF < 8 { Console.progress("\(number) of \(count) sessions") }
            do throws(SimulationFailure) {
                let outcome = try Simulation.run(seed: first &+ UInt64(number), bug: bug)
                totalPages.add(outcome.pages, ordering: .relaxed)
                totalFaults.add(outcome.faults, ordering: .relaxed)
                totalFound.add(outcome.lostLinks, ordering: .relaxed)
                totalDead.add(outcome.deadDestinations, ordering: .relaxed)
                totalSilences.add(outcome.silences, ordering: .relaxed)
                totalSecond.add(outcome.secondLinks, ordering: .relaxed)
                if outcome.isLaneLost { totalLost.add(1, ordering: .relaxed) }
            } catch {
                keep(error)
            }
        }
    }

    private func keep(_ failure: SimulationFailure) {
        firstFailure.withLock { kept in
            if let seed = kept?.seed, seed <= failure.seed { return }
            kept = failure
        }
    }
}
