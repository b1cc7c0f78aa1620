import Glibc

/// A disk whose every word is a pure function of its offset.
enum KnownDisk {
    static let blockBytes = 4096

    @inline(__always)
    private static func word(_ offset: Int) -> UInt64 {
        var mixed = UInt64(offset) &* 0x9E37_79B9_7F4A_7C15
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        return mixed ^ (mixed >> 27)
    }

    /// Writes the content of a disk of `byteCount` bytes.
    static func make(_ path: String, byteCount: Int) -> Bool {
        // SAFETY: the path and the block outlive their calls.
        guard let file = unsafe fopen(path, "w") else { return false }
        var block = [UInt64](repeating: 0, count: blockBytes / 8)
        for start in stride(from: 0, to: byteCount, by: blockBytes) {
            for index in 0..<block.count { block[index] = word(start + index * 8) }
            guard unsafe fwrite(block, blockBytes, 1, file) == 1 else { return false }
        }
        return unsafe fclose(file) == 0
    }

    /// Reads one block past the page cache and compares it.
    ///
    /// - Parameter buffer: `blockBytes`, aligned to them.
    /// - Returns: whether every word was right.
    @unsafe static func read(_ disk: Int32, block: Int, _ buffer: UnsafeMutablePointer<UInt64>) -> Bool {
        let start = block * blockBytes
        guard unsafe pread(disk, buffer, blockBytes, off_t(start)) == blockBytes else { return false }
        var difference: UInt64 = 0
        for index in 0..<(blockBytes / 8) { difference |= unsafe buffer[index] ^ word(start + index * 8) }
        return difference == 0
    }
}
