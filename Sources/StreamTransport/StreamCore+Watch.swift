import Glibc
import Uring

/// A descriptor watched for readability, or a free place for one.
struct Watch {
    var descriptor: Int32 = -1
    var token: UInt64 = 0
    /// Tells a completion of this watch from one of an earlier watch in the same place.
    var generation: UInt64 = 0
    var isArmed = false

    var isActive: Bool { descriptor >= 0 }
}

extension StreamCore {
    mutating func watch(descriptor: Int32, token: UInt64) {
        for index in 0..<watches.count where !watches[index].isActive {
            watches[index].descriptor = descriptor
            watches[index].token = token
            watches[index].isArmed = false
            return
        }
        preconditionFailure("at most \(StreamTransport.mostWatches) descriptors are watched")
    }

    mutating func unwatch(token: UInt64) {
        for index in 0..<watches.count where watches[index].isActive && watches[index].token == token {
            if watches[index].isArmed {
                let target = OperationToken(.watch, index: index, number: watches[index].generation)
                // A ring that refuses this fails the lanes at the next poll; the generation guards the place anyway.
                try? ring.pollRemove(target.rawValue, token: OperationToken(.housekeeping).rawValue)
            }
            watches[index].descriptor = -1
            watches[index].isArmed = false
            watches[index].generation += 1
        }
    }

    /// Arms what should be watched and is not.
    mutating func prepareWatches() throws(UringError) {
        for index in 0..<watches.count where watches[index].isActive && !watches[index].isArmed {
            let token = OperationToken(.watch, index: index, number: watches[index].generation)
            try ring.pollMultishot(watches[index].descriptor, events: UInt32(POLLIN), token: token.rawValue)
            watches[index].isArmed = true
        }
    }

    /// - Returns: the watch's token when its descriptor is readable or hung up.
    mutating func watchCompleted(_ completion: Completion, _ operation: OperationToken) -> UInt64? {
        let index = operation.index
        guard index < watches.count, watches[index].isActive, watches[index].generation & OperationToken.numberMask == operation.number
        else {
            return nil
        }
        let token = watches[index].token
        if !completion.hasMore { watches[index].isArmed = false }
        if completion.result < 0, completion.result != -ECANCELED {
            // A descriptor that cannot be polled would be armed and refused for ever: give it up, after telling.
            watches[index].descriptor = -1
            watches[index].generation += 1
        }
        return token
    }
}
