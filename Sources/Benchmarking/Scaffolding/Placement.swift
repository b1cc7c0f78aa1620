import CShims

/// Which processors the threads of a latency benchmark run on.
///
/// Left alone, the scheduler puts a sleeping pair of threads on one processor in one run and on two in the next, and a wake-up
/// across processors costs ten times one on the same. A guest has processors of its own: so do the guest's threads here. With only two
/// processors the source has the guest's where nobody spins: it runs while the guest's thread waits.
enum Placement {
    /// A thread of the guest, or the end of an exchange that asks.
    case guest
    /// The destination's threads, or a floor's resolver.
    case destination
    /// The source process, or the end of an exchange that answers.
    case source

    /// Runs `body`; it and the threads and processes it starts stay on this place's processors, on which they may run at all.
    ///
    /// - Parameter mode: how all of the session's, or the floor's, threads wait.
    func run<Result: ~Copyable, Failure: Error>(
        _ mode: WaitMode = .adaptive, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        var before = [UInt64](repeating: 0, count: 16)
        // SAFETY: sixteen words, as the shim takes them.
        guard unsafe CShims_affinity(&before) == 0, let wanted = processors(of: before, mode) else { return try body() }
        unsafe CShims_setAffinity(wanted)
        // SAFETY: as above.
        defer { unsafe CShims_setAffinity(before) }
        return try body()
    }

    /// A mask, or nil where there are too few processors to choose. The guest gets half of them, so that its thread can leave
    /// one that something else on the machine wants.
    private func processors(of allowed: [UInt64], _ mode: WaitMode) -> [UInt64]? {
        let numbers = (0..<1_024).filter { allowed[$0 / 64] & (1 << UInt64($0 % 64)) != 0 }
        let chosen: ArraySlice<Int>
        switch (self, numbers.count) {
        case (_, ...1): return nil
        case (_, 2) where mode != .event: return nil
        case (.destination, 2): chosen = numbers[1...]
        case (.guest, 2), (.source, 2): chosen = numbers[..<1]
        case (.guest, _): chosen = numbers[..<(numbers.count / 2)]
        case (.destination, _): chosen = numbers[(numbers.count - 2)...(numbers.count - 2)]
        case (.source, _): chosen = numbers[(numbers.count - 1)...]
        }
        var mask = [UInt64](repeating: 0, count: 16)
        for number in chosen { mask[number / 64] |= 1 << UInt64(number % 64) }
        return mask
    }
}
