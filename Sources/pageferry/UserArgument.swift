import ArgumentParser
import Glibc

/// A user, by name or number.
struct UserArgument: ExpressibleByArgument {
    let identifier: UInt32

    init?(argument: String) {
        if let number = UInt32(argument), number != .max {
            identifier = number
            return
        }
        // SAFETY: the name is terminated and lives for the call; the record is the library's own, read before its next call.
        guard let record = unsafe getpwnam(argument) else { return nil }
        identifier = unsafe record.pointee.pw_uid
    }
}
