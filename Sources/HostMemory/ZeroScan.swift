import PageCore

/// Whether `count` bytes at `start` are all zero. O(count), stops within 256 bytes of the first other byte.
///
/// Four vectors are gathered by OR before each test, so that memory, not the branch, sets the pace.
@unsafe
@inlinable
func isAllZero(_ start: UnsafeRawPointer, _ count: Int) -> Bool {
    typealias Vector = SIMD8<UInt64>
    let stride = MemoryLayout<Vector>.size
    var offset = 0
    // SAFETY: every load below ends at or before `start + count`, which the caller vouches for; unaligned loads of
    // integers accept every bit pattern.
    while offset + 4 * stride <= count {
        let first = unsafe start.loadUnaligned(fromByteOffset: offset, as: Vector.self)
        let second = unsafe start.loadUnaligned(fromByteOffset: offset + stride, as: Vector.self)
        let third = unsafe start.loadUnaligned(fromByteOffset: offset + 2 * stride, as: Vector.self)
        let fourth = unsafe start.loadUnaligned(fromByteOffset: offset + 3 * stride, as: Vector.self)
        let eight = (first | second) | (third | fourth)
        let four = eight.lowHalf | eight.highHalf
        let two = four.lowHalf | four.highHalf
        if two.x | two.y != 0 { return false }
        offset += 4 * stride
    }
    while offset < count {
        if unsafe start.load(fromByteOffset: offset, as: UInt8.self) != 0 { return false }
        offset += 1
    }
    return true
}

extension RawSpan {
    /// Whether every byte is zero; an empty span is. At the pace of memory, stops within 256 bytes of the first other byte.
    @inlinable
    public var isZero: Bool {
        // SAFETY: the span vouches for `byteCount` bytes.
        unsafe withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return true }
            return unsafe isAllZero(start, bytes.count)
        }
    }
}

extension MappedMemory {
    /// Whether the whole of the pages [first, first + count) is zero. Reads them: check a file for holes first.
    @inlinable
    public borrowing func isZero(firstPage first: Int, count: Int) -> Bool {
        withBytes(first << pageSize.shift..<(first + count) << pageSize.shift) { $0.isZero }
    }
}
