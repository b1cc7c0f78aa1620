import PageSimulation
import Testing

@Suite struct SimulationTests {
    /// Sessions of the first seeds; `make simulate` runs many more in release.
    @Test(arguments: 0..<8) func sessionsHoldEveryInvariant(eighth: Int) throws {
        for seed in 0..<100 {
            let outcome = try Simulation.run(seed: UInt64(seed * 8 + eighth))
            #expect(outcome.pages > 0)
        }
    }

    @Test func theSameSeedIsTheSameSession() throws {
        for seed in UInt64(0)..<10 {
            let first = try Simulation.run(seed: seed)
            let second = try Simulation.run(seed: seed)
            #expect(first == second)
        }
    }

    /// The scenarios reach what they are there for: a simulator in which nothing happens proves nothing.
    @Test func scenariosReachEveryPath() throws {
        var demand = 0, window = 0, push = 0, zero = 0, removed = 0, dropped = 0, lost = 0
        var silences = 0, secondLinks = 0, lostAttempts = 0
        for seed in UInt64(0)..<120 {
            let outcome = try Simulation.run(seed: seed)
            demand += outcome.destination.demand
            window += outcome.destination.window
            push += outcome.destination.push
            zero += outcome.destination.zero
            removed += outcome.destination.removed
            dropped += outcome.destination.dropped
            lost += outcome.isLaneLost ? 1 : 0
            silences += outcome.silences
            secondLinks += outcome.secondLinks
            lostAttempts += outcome.lostAttempts
            if !outcome.isLaneLost { #expect(outcome.longestFaultNanoseconds <= outcome.faultBoundNanoseconds) }
        }
        for count in [demand, window, push, zero, removed, dropped, lost, silences, secondLinks, lostAttempts] { #expect(count > 0) }
    }

    /// Each deliberate fault is caught, or the checkers do not look.
    @Test(arguments: SeededBug.allCases) func deliberateFaultsAreCaught(bug: SeededBug) throws {
        let failure = try #require(Simulation.firstFailure(of: bug, count: 1_000), "no session catches \(bug)")
        #expect(failure.bug == bug)
        #expect(failure.description.contains("pageferry simulate --seed \(failure.seed) --bug \(bug.rawValue) --trace"))
        #expect(!failure.description.contains("\n"))
        // The same seed without the fault is sound: it is the fault that was caught.
        _ = try Simulation.run(seed: failure.seed)
    }

    @Test func theTraceTellsWhatHappened() throws {
        var lines: [String] = []
        _ = try Simulation.run(seed: 1) { lines.append($0) }
        #expect(lines.count > 10)
        #expect(lines.contains { $0.contains("destination takes pages") })
    }
}
