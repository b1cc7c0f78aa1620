import PageCore
import Testing

@Suite struct PageBitmapTests {
    /// Every run of bitmaps around the word size, against a plain array of booleans.
    @Test(arguments: [1, 2, 63, 64, 65, 127, 128, 130])
    func everyRunAgreesWithAnArray(pageCount: Int) {
        for low in 0..<pageCount {
            for high in low...min(pageCount, low + 70) {
                var bitmap = PageBitmap(pageCount: pageCount)
                #expect(bitmap.insert(low..<high) == high - low)
                #expect(bitmap.setCount == high - low)
                #expect(bitmap.count(in: 0..<pageCount) == high - low)
                #expect(bitmap.firstSet(in: 0..<pageCount) == (low < high ? low : nil))
                #expect(bitmap.firstClear(in: low..<pageCount) == (high < pageCount ? high : nil))
                #expect(bitmap.insert(low..<high) == 0)
                #expect(bitmap.remove(low..<high) == high - low)
                #expect(bitmap.clearCount == pageCount)
            }
        }
    }

    /// Side by side in one allocation, and strangers to each other; the last one keeps the memory.
    @Test(arguments: [1, 63, 64, 65, 1000, 1 << 23]) func bitmapsOfAGroupAreIndependent(pageCount: Int) {
        var group = PageBitmapGroup(pageCount: pageCount, bitmaps: 2)
        var kept = group.take()
        var model = Set<Int>()
        do {
            var other = group.take()
            var random = SeededRandom(seed: 3)
            for _ in 0..<2_000 {
                let page = random.next(below: pageCount)
                if random.next(below: 3) == 0 { kept.remove(page) } else { kept.insert(page) }
                model = kept.contains(page) ? model.union([page]) : model.subtracting([page])
                other.insert(random.next(below: pageCount))
                other.remove(random.next(below: pageCount))
            }
            #expect(other.count(in: 0..<pageCount) == other.setCount)
            other.insert(0..<pageCount)
            #expect(kept.setCount == model.count)
            #expect(other.firstClear(in: 0..<pageCount) == nil)
            kept.removeAll()
            #expect(other.setCount == pageCount && other.count(in: 0..<pageCount) == pageCount)
            kept.insert(pageCount - 1)
            kept.replace(with: other)
            other.removeAll()
        }
        #expect(kept.count(in: 0..<pageCount) == pageCount && kept.firstClear(in: 0..<pageCount) == nil)
    }

    @Test func randomOperationsAgreeWithAnArray() {
        var random = SeededRandom(seed: 7)
        let pageCount = 300
        var bitmap = PageBitmap(pageCount: pageCount)
        var model = [Bool](repeating: false, count: pageCount)
        for _ in 0..<5_000 {
            let low = random.next(below: pageCount)
            let high = low + random.next(below: pageCount - low + 1)
            let before = model[low..<high].count { $0 }
            if random.chance(percent: 50) {
                #expect(bitmap.insert(low..<high) == high - low - before)
                for page in low..<high { model[page] = true }
            } else {
                #expect(bitmap.remove(low..<high) == before)
                for page in low..<high { model[page] = false }
            }
            #expect(bitmap.setCount == model.count { $0 })
            let from = random.next(below: pageCount)
            #expect(bitmap.firstSet(in: from..<pageCount) == model[from...].firstIndex(of: true))
            #expect(bitmap.firstClear(in: from..<pageCount) == model[from...].firstIndex(of: false))
            #expect(bitmap.contains(from) == model[from])
            let most = 1 + random.next(below: 90)
            let run = bitmap.firstClearRun(in: from..<pageCount, most: most)
            if let start = model[from...].firstIndex(of: false) {
                let limit = min(pageCount, start + most)
                #expect(run == start..<(model[start..<limit].firstIndex(of: true) ?? limit))
            } else {
                #expect(run == nil)
            }
        }
    }

    @Test func anEmptyBitmapHasNothing() {
        let bitmap = PageBitmap(pageCount: 0)
        #expect(bitmap.firstClear(in: 0..<0) == nil)
        #expect(bitmap.clearCount == 0)
    }
}
