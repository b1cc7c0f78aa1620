import PageCore
import Testing

@testable import PageWire

@Suite struct ResidentPagesTests {
    private static func decode(_ payloads: [[UInt8]], pageCount: Int) throws(FrameError) -> [Int] {
        var pages = PageBitmap(pageCount: pageCount)
        var next = 0
        for payload in payloads { next = try ResidentPages.decode(payload, into: &pages, next: next) }
        #expect(next == pageCount)
        return (0..<pageCount).filter { pages.contains($0) }
    }

    private static func encode(_ resident: [Int], pageCount: Int) -> [[UInt8]] {
        var pages = PageBitmap(pageCount: pageCount)
        for page in resident { pages.insert(page) }
        return ResidentPages.encode(pages)
    }

    /// Every set of pages of a small memory.
    @Test func allSmallSets() throws {
        for pageCount in 1...10 {
            for set in 0..<(1 << pageCount) {
                let resident = (0..<pageCount).filter { set >> $0 & 1 == 1 }
                #expect(try Self.decode(Self.encode(resident, pageCount: pageCount), pageCount: pageCount) == resident)
            }
        }
    }

    @Test(arguments: [1, 2, 3, 50, 5_000, 1_000_000]) func runsOfManyLengths(_ meanPages: Int) throws {
        var random = SeededRandom(seed: UInt64(meanPages))
        let pageCount = 3 * ResidentPages.pagesPerFrame + 17
        var resident: [Int] = []
        var page = 0
        var isResident = false
        while page < pageCount {
            let end = min(pageCount, page + 1 + random.next(below: 2 * meanPages))
            if isResident { resident.append(contentsOf: page..<end) }
            page = end
            isResident.toggle()
        }
        let payloads = Self.encode(resident, pageCount: pageCount)
        #expect(payloads.count == 4)
        #expect(payloads.allSatisfy { $0.count <= ResidentPages.pagesPerFrame / 8 + 13 })
        #expect(try Self.decode(payloads, pageCount: pageCount) == resident)
    }

    @Test func wholeAndEmptyMemoriesCostAFewBytes() throws {
        let pageCount = 1 << 20
        #expect(Self.encode([], pageCount: pageCount).allSatisfy { $0.count <= 20 })
        #expect(Self.encode(Array(0..<pageCount), pageCount: pageCount).allSatisfy { $0.count <= 20 })
    }

    @Test func whatAPeerMayNotSay() throws {
        let good = Self.encode([3, 4, 9], pageCount: 12)[0]
        func refused(_ payload: [UInt8], next: Int = 0) {
            var pages = PageBitmap(pageCount: 12)
            #expect(throws: FrameError.malformedPayload(kind: .residentPages)) {
                try ResidentPages.decode(payload, into: &pages, next: next)
            }
        }
        for length in 0..<good.count { refused(Array(good[..<length])) }
        refused(good + [0])
        // Not the pages that are due.
        refused(good, next: 4)
        // An unknown form.
        refused(Array(good[..<12]) + [2] + Array(good[13...]))
        let head = Array(good[..<12])
        // Runs that leave the memory, an empty one in the middle, a length of four groups, one with a needless group.
        refused(head + [0, 13])
        refused(head + [0, 3, 0, 9])
        refused(head + [0, 0x8C, 0x80, 0x80, 0])
        refused(head + [0, 0x8C, 0])
        // A bitmap with bits behind its end.
        refused(head + [1, 0, 0x10])
        var pages = PageBitmap(pageCount: 12)
        #expect(try ResidentPages.decode(head + [1, 0x18, 0x02], into: &pages, next: 0) == 12)
        #expect((0..<12).filter { pages.contains($0) } == [3, 4, 9])
    }
}
