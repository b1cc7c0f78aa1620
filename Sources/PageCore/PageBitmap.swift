/// A fixed number of bits, one a page: which pages are here, which were asked for, which were sent.
///
/// Storage is one allocation made at start, `pageCount / 8` bytes; nothing here allocates afterwards. See `PageBitmapGroup` for
/// bitmaps that share one.
///
/// SAFETY: its words are its own for as long as it lives; every page is checked against their number before they are touched.
@safe public struct PageBitmap: ~Copyable, @unchecked Sendable {
    /// The number of pages.
    public let pageCount: Int
    /// The number of pages whose bit is set.
    public private(set) var setCount = 0
    /// Keeps the words.
    private let storage: PageWords
    @usableFromInline let words: UnsafeMutablePointer<UInt64>
    /// The bitmap's words lie `1 << shift` words apart.
    @usableFromInline let shift: Int

    /// A bitmap of `pageCount` clear bits.
    public init(pageCount: Int) {
        self.init(pageCount: pageCount, storage: PageWords(pageCount: pageCount, shift: 0), number: 0)
    }

    init(pageCount: Int, storage: PageWords, number: Int) {
        self.pageCount = pageCount
        self.storage = storage
        shift = storage.shift
        unsafe words = storage.words(of: number)
    }

    private var wordCount: Int { (pageCount + 63) / 64 }

    /// The word `number`; the caller has checked that it exists.
    private func word(_ number: Int) -> UInt64 { unsafe words[number << shift] }

    /// The number of pages whose bit is clear.
    public var clearCount: Int { pageCount - setCount }

    /// Whether the bit of `page` is set. O(1).
    @inlinable
    public func contains(_ page: PageIndex) -> Bool {
        precondition(page >= 0 && page < pageCount, "a page index lies in its bitmap")
        return unsafe words[(page >> 6) << shift] & (1 << UInt64(page & 63)) != 0
    }

    /// Sets one bit. O(1).
    ///
    /// - Returns: whether it was clear before.
    @discardableResult
    public mutating func insert(_ page: PageIndex) -> Bool {
        insert(page..<(page + 1)) == 1
    }

    /// Clears one bit. O(1).
    ///
    /// - Returns: whether it was set before.
    @discardableResult
    public mutating func remove(_ page: PageIndex) -> Bool {
        remove(page..<(page + 1)) == 1
    }

    /// Sets the bits of a run of pages. O(run / 64).
    ///
    /// - Returns: how many were clear before.
    @discardableResult
    public mutating func insert(_ pages: Range<PageIndex>) -> Int {
        var changed = 0
        forEachWord(of: pages) { word, mask in
            changed += (mask & ~word).nonzeroBitCount
            word |= mask
        }
        setCount += changed
        return changed
    }

    /// Clears the bits of a run of pages. O(run / 64).
    ///
    /// - Returns: how many were set before.
    @discardableResult
    public mutating func remove(_ pages: Range<PageIndex>) -> Int {
        var changed = 0
        forEachWord(of: pages) { word, mask in
            changed += (mask & word).nonzeroBitCount
            word &= ~mask
        }
        setCount -= changed
        return changed
    }

    /// Takes over every bit of another bitmap of the same length. O(pages / 64).
    ///
    /// - Returns: how many bits that were clear are set now, and how many that were set are clear.
    @discardableResult
    public mutating func replace(with other: borrowing PageBitmap) -> (set: Int, cleared: Int) {
        precondition(other.pageCount == pageCount, "bitmaps of one length")
        var changed = (set: 0, cleared: 0)
        for index in 0..<wordCount {
            let (old, new) = (word(index), other.word(index))
            changed.set += (new & ~old).nonzeroBitCount
            changed.cleared += (old & ~new).nonzeroBitCount
            unsafe words[index << shift] = new
        }
        setCount = other.setCount
        return changed
    }

    /// Clears every bit. O(pages / 64).
    public mutating func removeAll() {
        remove(0..<pageCount)
    }

    /// The number of set bits in a run of pages. O(run / 64).
    public func count(in pages: Range<PageIndex>) -> Int {
        var total = 0
        var page = pages.lowerBound
        precondition(page >= 0 && pages.upperBound <= pageCount, "a run lies in its bitmap")
        while page < pages.upperBound {
            let stop = min(pages.upperBound, (page | 63) + 1)
            total += (word(page >> 6) & Self.mask(page..<stop)).nonzeroBitCount
            page = stop
        }
        return total
    }

    /// The first page of `pages` whose bit is set. O(run / 64).
    public func firstSet(in pages: Range<PageIndex>) -> PageIndex? {
        first(in: pages, invert: 0)
    }

    /// The first page of `pages` whose bit is clear. O(run / 64).
    public func firstClear(in pages: Range<PageIndex>) -> PageIndex? {
        first(in: pages, invert: ~0)
    }

    /// The first run of clear bits in `pages`, cut at the end of `pages` and at `most` pages. O(run / 64).
    public func firstClearRun(in pages: Range<PageIndex>, most: Int) -> Range<PageIndex>? {
        guard let start = firstClear(in: pages) else { return nil }
        let limit = most < pages.upperBound - start ? start + most : pages.upperBound
        return start..<(firstSet(in: start..<limit) ?? limit)
    }

    private func first(in pages: Range<PageIndex>, invert: UInt64) -> PageIndex? {
        precondition(pages.lowerBound >= 0 && pages.upperBound <= pageCount, "a run lies in its bitmap")
        var page = pages.lowerBound
        while page < pages.upperBound {
            let stop = min(pages.upperBound, (page | 63) + 1)
            let bits = (word(page >> 6) ^ invert) & Self.mask(page..<stop)
            if bits != 0 { return (page & ~63) + bits.trailingZeroBitCount }
            page = stop
        }
        return nil
    }

    private mutating func forEachWord(of pages: Range<PageIndex>, _ body: (inout UInt64, UInt64) -> Void) {
        precondition(pages.lowerBound >= 0 && pages.upperBound <= pageCount, "a run lies in its bitmap")
        var page = pages.lowerBound
        while page < pages.upperBound {
            let stop = min(pages.upperBound, (page | 63) + 1)
            // By way of a copy: the compiler (6.3.1) fails over an access in place under the thread sanitizer.
            var word = word(page >> 6)
            body(&word, Self.mask(page..<stop))
            unsafe words[(page >> 6) << shift] = word
            page = stop
        }
    }

    /// The bits of `pages` in their word; `pages` is not empty and does not leave the word of its lower bound.
    private static func mask(_ pages: Range<PageIndex>) -> UInt64 {
        let low = UInt64(pages.lowerBound & 63)
        let count = UInt64(pages.count)
        return (count == 64 ? ~0 : (1 << count) - 1) << low
    }
}
