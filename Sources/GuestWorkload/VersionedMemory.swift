import Glibc

/// Memory whose every page holds a pure function of its number and version, so that a page that was lost, doubled, torn or
/// taken from another time is noticed by the next visit.
///
/// SAFETY: `@safe` because the mapping is made once, unmapped at its user's word alone, and every page number is checked.
@safe struct VersionedMemory: @unchecked Sendable {
    static let wordsPerPage = 512

    private let base: UnsafeMutablePointer<UInt64>
    private let versions: UnsafeMutablePointer<UInt64>
    let pageCount: Int

    init(byteCount: Int) {
        pageCount = byteCount / 4096
        let mapped = unsafe mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)!
        unsafe base = mapped.bindMemory(to: UInt64.self, capacity: byteCount / 8)
        unsafe versions = .allocate(capacity: pageCount)
        unsafe versions.initialize(repeating: 0, count: pageCount)
        for page in 0..<pageCount { write(page, version: 0) }
    }

    @inline(__always)
    private static func word(_ page: Int, _ index: Int, _ version: UInt64) -> UInt64 {
        (UInt64(page) &* 0x9E37_79B9_7F4A_7C15 &+ version &* 0xD6E8_FEB8_6659_FD93) ^ (UInt64(index + 1) &* 0xBF58_476D_1CE4_E5B9)
    }

    private func write(_ page: Int, version: UInt64) {
        precondition(page >= 0 && page < pageCount, "a page lies in its memory")
        let words = unsafe base + page * Self.wordsPerPage
        for index in 0..<Self.wordsPerPage { unsafe words[index] = Self.word(page, index, version) }
        unsafe versions[page] = version
    }

    /// Compares a page with what its last visit left, and leaves the next version.
    ///
    /// - Returns: whether every word was right.
    func visit(_ page: Int) -> Bool {
        precondition(page >= 0 && page < pageCount, "a page lies in its memory")
        let words = unsafe base + page * Self.wordsPerPage
        let version = unsafe versions[page]
        var difference: UInt64 = 0
        for index in 0..<Self.wordsPerPage { difference |= unsafe words[index] ^ Self.word(page, index, version) }
        write(page, version: version &+ 1)
        return difference == 0
    }

    /// Gives the memory back; the last use of this value.
    func unmap() {
        unsafe munmap(base, pageCount * Self.wordsPerPage * 8)
        unsafe versions.deallocate()
    }
}
