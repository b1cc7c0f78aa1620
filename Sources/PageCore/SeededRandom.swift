/// A small, fast, reproducible random generator (SplitMix64, Steele, Lea and Flood 2014): the same seed gives the same
/// numbers on every host and in every version. For simulations and test data, never for secrets.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is positive. The bias of the multiplication method is below 2^-32 for small bounds.
    public mutating func next(below bound: Int) -> Int {
        precondition(bound > 0, "a bound is positive")
        return Int(next().multipliedFullWidth(by: UInt64(bound)).high)
    }

    /// True with a probability of `percent` in a hundred.
    public mutating func chance(percent: Int) -> Bool {
        next(below: 100) < percent
    }
}
