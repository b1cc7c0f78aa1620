import PageCore

extension DestinationMemory {
    /// Something the kernel refused to do now (EAGAIN).
    enum Parked: Sendable {
        case install(PageRange)
        case fromSlab(PageRange, lane: Int, byteOffset: Int)
        case resolve(RegionIndex, PageIndex)

        /// The pages whose bytes wait; nil for a resolve, which has none.
        var range: PageRange? {
            switch self {
            case .install(let range), .fromSlab(let range, _, _): range
            case .resolve: nil
            }
        }

        var region: RegionIndex {
            switch self {
            case .install(let range), .fromSlab(let range, _, _): range.region
            case .resolve(let region, _): region
            }
        }

        /// The same work for what is left of its range.
        func behind(_ rest: PageRange, skippedBytes: Int) -> Parked {
            switch self {
            case .install: .install(rest)
            case .fromSlab(_, let lane, let byteOffset): .fromSlab(rest, lane: lane, byteOffset: byteOffset + skippedBytes)
            case .resolve: self
            }
        }
    }
}
