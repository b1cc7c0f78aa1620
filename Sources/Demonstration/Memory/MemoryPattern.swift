import PageCore

/// What the memory demonstration puts into each page, a pure function of the page's number: holes, zero pages, and pages
/// in which every word differs.
package enum MemoryPattern {
    static let wordsPerPage = 512

    enum Content {
        case hole
        case zero
        case data
        /// As data, and rewritten by a thread at the destination while pages arrive.
        case rewritten
    }

    static func content(of page: PageIndex) -> Content {
        switch mixed(UInt64(page)) % 16 {
        case 0, 1: .hole
        case 2: .zero
        case 3: .rewritten
        default: .data
        }
    }

    /// The word at `index` of a page, as the source has it (`version` 0) or as the rewriting thread leaves it (1).
    @inline(__always)
    package static func word(_ page: PageIndex, _ index: Int, version: UInt64) -> UInt64 {
        (UInt64(page) &* 0x9E37_79B9_7F4A_7C15 &+ version &* 0xD6E8_FEB8_6659_FD93) ^ (UInt64(index + 1) &* 0xBF58_476D_1CE4_E5B9)
    }

    private static func mixed(_ value: UInt64) -> UInt64 {
        var mixed = value &* 0x9E37_79B9_7F4A_7C15
        mixed = (mixed ^ (mixed >> 31)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 29)
    }
}

/// A run of pages of this process's memory, read and written word by word.
///
/// SAFETY: `@safe` because the demonstration keeps the mapping for as long as any copy of this lives, and pages are checked.
@safe package struct PatternedMemory: @unchecked Sendable {
    private let base: UnsafeMutablePointer<UInt64>
    package let pageCount: Int

    /// - Parameter address: of a mapping of `pageCount` 4 KiB pages.
    @unsafe package init(address: UInt, pageCount: Int) {
        unsafe base = UnsafeMutablePointer(bitPattern: address)!
        self.pageCount = pageCount
    }

    private func words(_ page: PageIndex) -> UnsafeMutableBufferPointer<UInt64> {
        precondition(page >= 0 && page < pageCount, "a page lies in its memory")
        return unsafe UnsafeMutableBufferPointer(
            start: base + page * MemoryPattern.wordsPerPage, count: MemoryPattern.wordsPerPage)
    }

    /// Fills a page with its data.
    package func write(_ page: PageIndex, version: UInt64) {
        let words = unsafe words(page)
        for index in 0..<MemoryPattern.wordsPerPage {
            unsafe words[index] = MemoryPattern.word(page, index, version: version)
        }
    }

    func writeZeros(_ page: PageIndex) {
        unsafe words(page).update(repeating: 0)
    }

    /// Makes the first word one that no version of the page has.
    package func spoil(_ page: PageIndex) {
        unsafe words(page)[0] = ~MemoryPattern.word(page, 0, version: 0)
    }

    /// Whether a first word is that of the page's data as the source has it.
    @inline(__always)
    package static func isFirstWord(_ word: UInt64, of page: PageIndex) -> Bool { word == MemoryPattern.word(page, 0, version: 0) }

    /// Reads the first word: the access that waits when the page is not here.
    package func touch(_ page: PageIndex) -> UInt64 {
        unsafe words(page)[0]
    }

    /// Whether every byte of the page is as it must be.
    func isRight(_ page: PageIndex, version: UInt64) -> Bool {
        let words = unsafe words(page)
        var difference: UInt64 = 0
        switch MemoryPattern.content(of: page) {
        case .hole, .zero:
            for index in 0..<MemoryPattern.wordsPerPage { difference |= unsafe words[index] }
        case .data:
            for index in 0..<MemoryPattern.wordsPerPage {
                difference |= unsafe words[index] ^ MemoryPattern.word(page, index, version: 0)
            }
        case .rewritten:
            for index in 0..<MemoryPattern.wordsPerPage {
                difference |= unsafe words[index] ^ MemoryPattern.word(page, index, version: version)
            }
        }
        return difference == 0
    }
}
