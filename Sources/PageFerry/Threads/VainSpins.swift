/// How often to spin for one kind of event, learned from what became of the spins before.
///
/// After a spin in vain the next wait goes without, after the next vain one two, then four, up to `mostWaitsWithout`; one that was
/// not in vain ends that.
struct VainSpins {
    private static var mostWaitsWithout: Int { 256 }

    /// Waits that go without a spin, from the next on.
    private var waitsWithout = 0
    private var waitsWithoutNext = 1

    /// A wait begins.
    ///
    /// - Returns: whether to spin for it.
    mutating func next() -> Bool {
        guard waitsWithout > 0 else { return true }
        waitsWithout -= 1
        return false
    }

    mutating func spun(isInVain: Bool) {
        guard isInVain else { return waitsWithoutNext = 1 }
        waitsWithout = waitsWithoutNext
        waitsWithoutNext = min(2 * waitsWithoutNext, Self.mostWaitsWithout)
    }
}
