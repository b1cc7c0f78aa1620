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

        var isActive: Bool { descriptor >= 0 }
    }

    private static let generationMask: UInt64 = (1 << 48) - 1

    private var watches: ContiguousArray<Watch>
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
    public mutating func watch(descriptor: Int32, token: UInt64) {
        for index in watches.indices where !watches[index].isActive {
            watches[index].descriptor = descriptor
            watches[index].token = token
            watches[index].isArmed = false
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
        watches[index].descriptor = -1
        watches[index].isArmed = false
        watches[index].generation += 1
    }

    /// Arms what should be watched and is not.
    public mutating func prepare(_ ring: inout Ring) throws(UringError) {
        for index in watches.indices where watches[index].isActive && !watches[index].isArmed {
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
