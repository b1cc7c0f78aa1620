import PageCore
import Testing

@testable import PageEngine

@Suite struct ReceptionsTests {
    /// Every set of occupied places among the first, a middle one and the last, entered and left in turn.
    @Test func findsExactlyWhatIsThere() {
        let lanes = [0, 1, 31, 62, 63]
        for set in 0..<(1 << lanes.count) {
            var receptions = Receptions(laneCount: Receptions.mostLanes)
            let members = lanes.indices.filter { set >> $0 & 1 == 1 }.map { lanes[$0] }
            for lane in lanes { receptions[lane] = reception(lane) }
            for lane in lanes where !members.contains(lane) { receptions[lane] = nil }
            var found: [Int] = []
            receptions.forEach { found.append($0.range.first) }
            #expect(found == members)
            for lane in 0..<Receptions.mostLanes {
                #expect((receptions[lane] != nil) == members.contains(lane))
                #expect(receptions.contains { $0.range.first == lane } == members.contains(lane))
            }
        }
    }

    @Test func takesWhatComesAfterInTheSamePlace() {
        var receptions = Receptions(laneCount: 2)
        receptions[1] = reception(4)
        receptions[1] = reception(9)
        #expect(receptions[1]?.range.first == 9)
        #expect(!receptions.contains { $0.range.first == 4 })
        receptions[1] = nil
        receptions[1] = nil
        #expect(!receptions.contains { _ in true })
    }

    private func reception(_ page: Int) -> Reception {
        let range = PageRange(region: 0, first: page, count: 1)
        return Reception(range: range, placement: .direct(range))
    }
}
