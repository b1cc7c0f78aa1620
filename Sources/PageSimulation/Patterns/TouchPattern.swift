import PageCore

/// Synthetic orders in which a guest touches pages.
public enum TouchPattern: Sendable, Hashable {
    case sequential
    case reverse
    /// Every so manyth page.
    case strided(Int)
    /// So many threads in turn, each sequential in a part of its own.
    case interleaved(Int)
    /// A few pages often, most seldom (Zipf's law with exponent 1), hot pages scattered over the memory.
    case zipf
    case uniform

    public static let standard: [TouchPattern] = [.sequential, .reverse, .strided(7), .interleaved(4), .zipf, .uniform]

    public var name: String {
        switch self {
        case .sequential: "sequential"
        case .reverse: "reverse"
        case .strided(let step): "stride \(step)"
        case .interleaved(let count): "\(count) interleaved streams"
        case .zipf: "zipf"
        case .uniform: "uniform random"
        }
    }

    /// Whether a policy can know what comes next.
    public var isRegular: Bool {
        switch self {
        case .sequential, .reverse, .strided, .interleaved: true
        case .zipf, .uniform: false
        }
    }

    /// Pages of a memory of `pageCount` pages, in the order of their touches; random patterns repeat pages, and touch at most a
    /// quarter as many as there are.
    public func touches(pageCount: Int, seed: UInt64) -> [PageIndex] {
        var random = SeededRandom(seed: seed)
        switch self {
        case .sequential: return Array(0..<pageCount)
        case .reverse: return Array((0..<pageCount).reversed())
        case .strided(let step): return Array(Swift.stride(from: 0, to: pageCount, by: step))
        case .interleaved(let count):
            let part = pageCount / count
            return (0..<part).flatMap { index in (0..<count).map { $0 * part + index } }
        case .zipf: return Self.zipf(pageCount: pageCount, count: pageCount / 4, &random)
        case .uniform: return (0..<(pageCount / 4)).map { _ in random.next(below: pageCount) }
        }
    }

    /// By inversion of the harmonic sums; the rank of a page is its place in a random permutation.
    private static func zipf(pageCount: Int, count: Int, _ random: inout SeededRandom) -> [PageIndex] {
        var ranked = Array(0..<pageCount)
        ranked.shuffle(using: &random)
        var sums: [Double] = []
        sums.reserveCapacity(pageCount)
        var sum = 0.0
        for rank in 1...pageCount {
            sum += 1 / Double(rank)
            sums.append(sum)
        }
        return (0..<count).map { _ in
            let wanted = Double(random.next() >> 11) / Double(1 << 53) * sum
            var low = 0
            var high = pageCount - 1
            while low < high {
                let middle = (low + high) / 2
                if sums[middle] < wanted { low = middle + 1 } else { high = middle }
            }
            return ranked[low]
        }
    }
}
