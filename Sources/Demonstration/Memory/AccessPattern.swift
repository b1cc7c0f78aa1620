import PageCore

/// The order in which a thread of the memory demonstration walks pages.
public enum AccessPattern: String, Sendable, CaseIterable, Codable {
    case sequential
    case reverse
    case stride
    case random

    /// The `step`th page of a walk that visits every page of `pageCount` about once.
    func page(_ step: Int, of pageCount: Int, _ random: inout SeededRandom) -> PageIndex {
        switch self {
        case .sequential: step
        case .reverse: pageCount - 1 - step
        // An odd stride that has no factor in common with a power of two visits every page of one.
        case .stride: (step &* 97) % pageCount
        case .random: random.next(below: pageCount)
        }
    }
}
