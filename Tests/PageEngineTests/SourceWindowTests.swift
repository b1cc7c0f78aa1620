import PageCore
import Testing

@testable import PageEngine

@Suite struct SourceWindowTests {
    /// What is left of a window, page by page, in the order in which it must go.
    private func expected(_ pages: Range<Int>, _ stride: Int, behind demanded: Int?, sent: Set<Int>) -> [Int] {
        var list: [Int] = []
        if stride == 0 {
            list = Array(pages)
        } else {
            var page = demanded.map { $0 + stride } ?? (stride > 0 ? pages.lowerBound : pages.upperBound - 1)
            while pages.contains(page) {
                list.append(page)
                page += stride
            }
        }
        return list.filter { !sent.contains($0) }
    }

    /// Every small window, over every set of pages that have left.
    @Test(arguments: -3...3, 1...3) func everySmallWindow(stride: Int, most: Int) {
        let count = 7
        for bits in 0..<(1 << count) {
            let gone = Set((0..<count).filter { bits >> $0 & 1 == 1 })
            for first in 0..<count {
                for end in (first + 1)...count {
                    for demanded in [nil] + (first..<end).map({ Optional($0) }) {
                        var sent = PageBitmap(pageCount: count)
                        for page in gone { sent.insert(page) }
                        var window =
                            demanded.map { SourceWindow(region: 0, pages: first..<end, stride: stride, behind: $0) }
                            ?? SourceWindow(region: 0, pages: first..<end, stride: stride)
                        var left: [Range<Int>] = []
                        while let run = window.next(notIn: sent, most: most) {
                            left.append(run)
                            // As if a run of other content ended after its first page.
                            sent.insert(run.lowerBound..<(run.lowerBound + (left.count % 2 == 0 ? 1 : run.count)))
                            if left.count > 2 * count { break }
                        }
                        let wanted = expected(first..<end, stride, behind: demanded, sent: gone)
                        let pages = left.flatMap { Array($0) }
                        #expect(
                            Set(pages) == Set(wanted),
                            "\(first)..<\(end) by \(stride) behind \(String(describing: demanded)) without \(gone)")
                        #expect(left.allSatisfy { $0.count <= most })
                        // The nearest first; inside a run of a downward window the order is the frame's.
                        if stride >= 0 { #expect(left.map(\.lowerBound) == left.map(\.lowerBound).sorted()) }
                        if stride < -1 { #expect(pages == pages.sorted(by: >)) }
                    }
                }
            }
        }
    }

    @Test func aHostileStrideCostsNoTime() {
        let sent = { () -> PageBitmap in
            var sent = PageBitmap(pageCount: 1 << 20)
            sent.insert(0..<(1 << 20))
            return sent
        }()
        for stride in [2, -2, 1 << 19, -(1 << 19), Int(Int32.max), Int(Int32.min)] {
            var window = SourceWindow(region: 0, pages: 0..<(1 << 20), stride: stride)
            #expect(window.next(notIn: sent, most: 16) == nil)
            #expect(window.isEmpty)
            var behind = SourceWindow(region: 0, pages: 0..<(1 << 20), stride: stride, behind: 5)
            #expect(behind.next(notIn: sent, most: 16) == nil)
        }
        // No more of it is looked at than is allowed.
        var wide = SourceWindow(region: 0, pages: 0..<(1 << 20), stride: 3)
        var count = 0
        let none = PageBitmap(pageCount: 1 << 20)
        while wide.next(notIn: none, most: 16) != nil { count += 1 }
        #expect(count == SourceWindow.mostStrides)
    }
}
