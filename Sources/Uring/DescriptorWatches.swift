import Glibc

/// Descriptors watched for readability through a ring, each until it is unwatched (multishot poll, io_uring_prep_poll_add(3)).
///
/// A watch's operation is `tag` in the top byte, its place in the next, and a generation in the rest of the completion's
/// token, so that the owner can tell watches from its other operations, and a late completion from a new watch.
public struct DescriptorWatches: ~Copyable {
    private struct Watch {
        var descriptor: Int32 = -1
        var token: UInt64 = 0
        /// Tells a completion of this watch from one of an earlier watch in the same place.
        var generation: UInt64 = 0
        var isArmed = false
        /// Looked at directly by an owner who spins.
        var isEager = false
        /// The ring is asked only before a sleep.
        var isUnarmedInSpins = false

        var isActive: Bool { descriptor >= 0 }
    }

    private static let generationMask: UInt64 = (1 << 48) - 1

    private var watches: ContiguousArray<Watch>
    private var eagerCount = 0
    /// Where `nextEager` goes on.
    private var nextPlace = 0
    private let tag: UInt8
    private let housekeepingToken: UInt64

    /// - Parameters:
    ///   - capacity: the most descriptors at a time; at most 256.
    ///   - tag: the top byte of the operations' tokens.
    ///   - housekeepingToken: the token of removals, whose completions tell nothing.
    public init(capacity: Int, tag: UInt8, housekeepingToken: UInt64) {
        precondition(capacity > 0 && capacity <= 256, "a place fits a byte")
        watches = ContiguousArray(repeating: Watch(), count: capacity)
        self.tag = tag
        self.housekeepingToken = housekeepingToken
    }

    /// - Precondition: fewer than the capacity are watched.
    ///
    /// - Parameter isEager: the owner looks at the descriptor by itself while it spins, which spares the ring's round trip;
    ///   the ring watches it only after `prepareForSleep`, unless `isArmed` says that it does all the time.
    public mutating func watch(descriptor: Int32, token: UInt64, isEager: Bool = false, isArmed: Bool = false) {
        for index in watches.indices where !watches[index].isActive {
            watches[index].descriptor = descriptor
            watches[index].token = token
            watches[index].isArmed = false
            watches[index].isEager = isEager
            watches[index].isUnarmedInSpins = isEager && !isArmed
            if isEager { eagerCount += 1 }
            return
        }
        preconditionFailure("at most \(watches.count) descriptors are watched")
    }

    public mutating func unwatch(token: UInt64, _ ring: inout Ring) {
        for index in watches.indices where watches[index].isActive && watches[index].token == token {
            end(index, &ring)
        }
    }

    /// Ends every watch.
    public mutating func unwatchAll(_ ring: inout Ring) {
        for index in watches.indices where watches[index].isActive { end(index, &ring) }
    }

    private mutating func end(_ index: Int, _ ring: inout Ring) {
        if watches[index].isArmed {
            // A ring that refuses this fails its owner at the next call; the generation guards the place anyway.
            try? ring.pollRemove(operation(index), token: housekeepingToken)
        }
        if watches[index].isEager { eagerCount -= 1 }
        watches[index].descriptor = -1
        watches[index].isArmed = false
        watches[index].generation += 1
    }

    /// Hands the tokens of the eager watches to `body`, until it answers true.
    ///
    /// - Returns: whether it did.
    public func firstEager(_ body: (UInt64) -> Bool) -> Bool {
        guard eagerCount > 0 else { return false }
        for watch in watches where watch.isActive && watch.isEager {
            if body(watch.token) { return true }
        }
        return false
    }

    /// Hands the token of one eager watch to `body`, of another one at each call.
    ///
    /// - Returns: what it answers; false where there is none.
    public mutating func nextEager(_ body: (UInt64) -> Bool) -> Bool {
        guard eagerCount > 0 else { return false }
        repeat {
            nextPlace = nextPlace + 1 < watches.count ? nextPlace + 1 : 0
        } while !watches[nextPlace].isActive || !watches[nextPlace].isEager
        return body(watches[nextPlace].token)
    }

    /// Arms eager watches too, for one event each: nobody looks while the owner sleeps.
    public mutating func prepareForSleep(_ ring: inout Ring) throws(UringError) {
        try prepare(&ring)
        guard eagerCount > 0 else { return }
        for index in watches.indices where watches[index].isActive && watches[index].isUnarmedInSpins && !watches[index].isArmed {
            try ring.pollOnce(watches[index].descriptor, events: UInt32(POLLIN), token: operation(index))
            watches[index].isArmed = true
        }
    }

    /// Arms what should be watched and is not.
    public mutating func prepare(_ ring: inout Ring) throws(UringError) {
        for index in watches.indices where watches[index].isActive && !watches[index].isArmed && !watches[index].isUnarmedInSpins {
            try ring.pollMultishot(watches[index].descriptor, events: UInt32(POLLIN), token: operation(index))
            watches[index].isArmed = true
        }
    }

    /// A completion with the watches' tag has come.
    ///
    /// - Returns: the watch's token when its descriptor is readable or hung up.
    public mutating func completed(_ completion: Completion) -> UInt64? {
        let index = Int(UInt8(truncatingIfNeeded: completion.token >> 48))
        guard index < watches.count, watches[index].isActive, completion.token == operation(index) else { return nil }
        let token = watches[index].token
        if !completion.hasMore { watches[index].isArmed = false }
        if completion.result < 0, completion.result != -ECANCELED {
            // A descriptor that cannot be polled would be armed and refused for ever: give it up, after telling.
            watches[index].descriptor = -1
            watches[index].generation += 1
        }
        return token
    }

    private func operation(_ index: Int) -> UInt64 {
        UInt64(tag) << 56 | UInt64(UInt8(index)) << 48 | watches[index].generation & Self.generationMask
    }
}
