import PageCore
import Testing

@Suite struct PageSizeTests {
    @Test func onlySupportedSizesExist() {
        #expect(PageSize(bytes: 4096) == .fourKiB)
        #expect(PageSize(bytes: 2 << 20) == .twoMiB)
        for bytes in [-4096, 0, 1, 4095, 8192, 1 << 30, Int.max] { #expect(PageSize(bytes: bytes) == nil) }
    }

    @Test func theSeededRandomIsTheSameEverywhere() {
        var random = SeededRandom(seed: 1)
        #expect(random.next() == 0x910A_2DEC_8902_5CC1)
        for _ in 0..<1_000 { #expect((0..<7).contains(random.next(below: 7))) }
    }

    @Test func theClockNeverGoesBack() {
        var last = MonotonicClock.nowNanoseconds()
        for _ in 0..<1_000 {
            let now = MonotonicClock.nowNanoseconds()
            #expect(now >= last)
            last = now
        }
    }
}
