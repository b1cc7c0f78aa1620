extension RawSpan {
    /// The little-endian integer at `offset`; traps outside the span.
    @inlinable
    func loadLittleEndian<Integer: FixedWidthInteger & BitwiseCopyable>(_ type: Integer.Type, at offset: Int) -> Integer {
        precondition(offset >= 0 && offset + MemoryLayout<Integer>.size <= byteCount, "a load stays inside its span")
        // SAFETY: the bounds were just checked; every bit pattern of an integer is a valid value.
        return Integer(littleEndian: unsafe unsafeLoadUnaligned(fromUncheckedByteOffset: offset, as: Integer.self))
    }
}

extension MutableRawSpan {
    /// Stores `value` at `offset` in little-endian order; traps outside the span.
    @inlinable
    mutating func storeLittleEndian<Integer: FixedWidthInteger & BitwiseCopyable>(_ value: Integer, at offset: Int) {
        storeBytes(of: value.littleEndian, toByteOffset: offset, as: Integer.self)
    }
}
