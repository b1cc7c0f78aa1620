import Testing

@testable import Benchmarking

@Suite struct FigureTests {
    @Test func theMedianIsTheMiddleOrTheMeanOfTheMiddleTwo() {
        #expect(Spread([3, 1, 2]).median == 2)
        #expect(Spread([4, 1, 2, 3]).median == 2.5)
        #expect(Spread([7]) == Spread([7, 7]))
        #expect(Spread([5, -1, 9]).min == -1 && Spread([5, -1, 9]).max == 9)
    }

    @Test func aRatioIsThatOfTheMedians() throws {
        let figure = Figure("fault", unit: "us", [10, 30, 20], against: "floor", [10, 10, 40], bound: .atMost(2))
        let reference = try #require(figure.reference)
        #expect(reference.ratio == 2)
        #expect(reference.ratioSpread.min == 0.5 && reference.ratioSpread.max == 3)
        #expect(figure.isMet == true)
    }

    @Test(arguments: [
        (Bound.atMost(1.25), 1.25, true), (.atMost(1.25), 1.26, false), (.atLeast(0.8), 0.8, true), (.atLeast(0.8), 0.79, false),
    ])
    func aBoundIncludesItsValue(bound: Bound, ratio: Double, isMet: Bool) {
        #expect(bound.isMet(by: ratio) == isMet)
    }

    @Test func aBoundWithoutAReferenceIsOfTheMedian() {
        #expect(Figure("idle", unit: "%", [0.1, 3, 0.2], bound: .atMost(1)).isMet == true)
        #expect(Figure("idle", unit: "%", [0.1, 3, 2], bound: .atMost(1)).isMet == false)
    }

    @Test func roundsAreAddedRoundByRound() {
        var ledger = RoundLedger()
        for round in 1...3 {
            ledger.record("fault", Double(round))
            ledger.record("wire", Double(10 * round))
        }
        #expect(ledger.sum("fault", "wire") == [11, 22, 33])
        #expect(ledger.names == ["fault", "wire"])
    }

    @Test func theWarmUpRoundIsNotRecorded() throws {
        var context = BenchmarkContext(executablePath: "")
        context.rounds = 2
        var rounds: [Int] = []
        let ledger = try context.interleave("test") { round, ledger in
            rounds.append(round)
            ledger.record("value", Double(round))
        }
        #expect(rounds == [0, 1, 2])
        #expect(ledger["value"] == [1, 2])
    }

    @Test(arguments: [
        (1_234.5, "1235"), (123.45, "123.5"), (12.345, "12.35"), (0.0456, "0.046"), (0, "0"), (-2.5, "-2.50"), (.infinity, "-"),
    ])
    func numbersHaveAboutFourDigits(value: Double, text: String) {
        #expect(TextTable.number(value) == text)
    }

    @Test(arguments: [(100.0, "100"), (2.5, "2.5"), (0.02, "0.02"), (5, "5")])
    func labelsEndWithoutZeros(value: Double, text: String) {
        #expect(TextTable.short(value) == text)
    }
}
