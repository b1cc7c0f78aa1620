import PageCore

/// Pages the destination wants around a demanded one, or ahead of it: what is left of them, in the order in which they go.
struct SourceWindow: Sendable {
    /// The most pages of a window that is not contiguous; each of them is a frame of its own.
    static let mostStrides = 1024

    let region: RegionIndex
    private let stride: Int
    /// Session pages not looked at yet. With a stride the next page is the one at the end where it begins.
    private var rest: Range<Int>

    /// All of `pages` that lie ahead of `demanded` in the direction and on the grid of the stride; without a stride all.
    init(region: RegionIndex, pages: Range<Int>, stride: Int, behind demanded: Int) {
        let ahead: Range<Int> =
            switch stride {
            case 0: pages
            case 1...: min(demanded + stride, pages.upperBound)..<pages.upperBound
            default: pages.lowerBound..<max(pages.lowerBound, demanded + stride + 1)
            }
        self.init(region: region, pages: ahead, stride: stride)
    }

    /// Every `stride`th of `pages`, from the end where the stride begins.
    init(region: RegionIndex, pages: Range<Int>, stride: Int) {
        self.region = region
        self.stride = stride
        rest = pages
        guard stride.magnitude > 1 else { return }
        let most = min(pages.count, Self.mostStrides * Int(stride.magnitude))
        rest = stride > 0 ? pages.lowerBound..<(pages.lowerBound + most) : (pages.upperBound - most)..<pages.upperBound
    }

    var isEmpty: Bool { rest.isEmpty }

    /// The next pages that have not left, at most `most` and all in one run. O(pages looked at / 64), or O(1) a step of the
    /// stride.
    mutating func next(notIn sent: borrowing PageBitmap, most: Int) -> Range<Int>? {
        switch stride {
        case 0, 1:
            let run = sent.firstClearRun(in: rest, most: most)
            rest = (run?.lowerBound ?? rest.upperBound)..<rest.upperBound
            return run
        case -1:
            while !rest.isEmpty {
                let piece = max(rest.lowerBound, rest.upperBound - most)..<rest.upperBound
                if let run = sent.firstClearRun(in: piece, most: most) { return run }
                rest = rest.lowerBound..<piece.lowerBound
            }
            return nil
        default:
            while !rest.isEmpty {
                let page = stride > 0 ? rest.lowerBound : rest.upperBound - 1
                rest =
                    stride > 0
                    ? min(page + stride, rest.upperBound)..<rest.upperBound : rest.lowerBound..<max(rest.lowerBound, page + stride + 1)
                if !sent.contains(page) { return page..<(page + 1) }
            }
            return nil
        }
    }
}
