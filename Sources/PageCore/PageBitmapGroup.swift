import Glibc

/// Bitmaps of the same pages, word by word side by side: what several of them know of one page lies in one cache line, and in one
/// entry of the address translation cache. Over large memories that, not the instructions, is what a look at a page costs.
///
/// The storage is one allocation made at start, and lives for as long as one of its bitmaps.
public struct PageBitmapGroup: ~Copyable {
    private let pageCount: Int
    private let storage: PageWords
    private var taken = 0

    /// - Parameter bitmaps: how many there are to be; a power of two.
    public init(pageCount: Int, bitmaps: Int) {
        precondition(bitmaps > 0 && bitmaps.nonzeroBitCount == 1, "words of a power of two lie side by side")
        self.pageCount = pageCount
        storage = PageWords(pageCount: pageCount, shift: bitmaps.trailingZeroBitCount)
    }

    /// The next of the bitmaps, all bits clear.
    public mutating func take() -> PageBitmap {
        defer { taken += 1 }
        return PageBitmap(pageCount: pageCount, storage: storage, number: taken)
    }
}

/// The words of a group. Each bitmap has words of its own, which nobody else reads or writes.
@safe final class PageWords: @unchecked Sendable {
    /// Tables from here on are as large as a huge page, and touched all over: without huge pages each look misses the
    /// processor's address translation too.
    private static let hugeBytes = 2 << 20

    let shift: Int
    private let base: UnsafeMutablePointer<UInt64>

    init(pageCount: Int, shift: Int) {
        precondition(pageCount >= 0, "a bitmap has no negative length")
        self.shift = shift
        let count = max(1, ((pageCount + 63) / 64) << shift)
        let byteCount = count * MemoryLayout<UInt64>.stride
        let alignment = byteCount >= Self.hugeBytes ? Self.hugeBytes : 64
        let memory = UnsafeMutableRawPointer.allocate(byteCount: byteCount, alignment: alignment)
        // SAFETY: the range was just allocated. This is advice; a kernel without huge pages refuses it, and nothing else changes.
        if byteCount >= Self.hugeBytes { _ = unsafe madvise(memory, byteCount, Int32(MADV_HUGEPAGE)) }
        // SAFETY: `count` words fit. Writing them all now keeps first touches off the page path.
        unsafe base = memory.initializeMemory(as: UInt64.self, repeating: 0, count: count)
    }

    deinit { unsafe base.deallocate() }

    /// The first word of a bitmap; the next ones are `1 << shift` words apart.
    func words(of number: Int) -> UnsafeMutablePointer<UInt64> {
        precondition(number >= 0 && number < 1 << shift, "a group has only so many bitmaps")
        return unsafe base + number
    }
}
