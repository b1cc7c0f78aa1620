/// The size of one page of a region: the unit in which memory is requested, sent, and made visible.
///
/// The raw value is the base-2 logarithm of the size in bytes, which is also its form on the wire.
public enum PageSize: UInt8, Sendable, Hashable, CaseIterable {
    /// The base page of x86-64 and of most arm64 kernels.
    case fourKiB = 12
    /// A PMD-sized huge page (hugetlbfs).
    case twoMiB = 21

    /// The page size of `bytes`, or nil when no supported page has that size.
    public init?(bytes: Int) {
        guard bytes > 0, bytes & (bytes - 1) == 0 else { return nil }
        self.init(rawValue: UInt8(truncatingIfNeeded: bytes.trailingZeroBitCount))
    }

    /// log2 of the size in bytes.
    @inlinable public var shift: Int { Int(rawValue) }

    /// The size in bytes.
    @inlinable public var bytes: Int { 1 << Int(rawValue) }
}
