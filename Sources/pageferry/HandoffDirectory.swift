import Glibc
import Handoff
import NativeHandoff

/// A hand-off socket in a directory that only this user can enter; both go with this value.
struct HandoffDirectory: ~Copyable {
    let listener: HandoffListener
    /// Removed with the socket; nil for one that is not ours to remove.
    let directory: String?

    var path: String { listener.path }

    /// A socket that the next daemon will listen on too, when this one dies.
    ///
    /// - Parameter owner: the user who may connect beside this one; nobody else enters a state directory, so root alone can name one.
    init(in state: StateDirectory, owner: UInt32? = nil) throws(CommandFailure) {
        guard owner == nil || owner == geteuid() else {
            throw CommandFailure(
                "--state keeps its sockets from other users: leave --handoff-owner out, or run this daemon as that user", .usage)
        }
        listener = try attempt { () throws(HandoffError) in try HandoffListener(path: state.file("handoff")) }
        directory = nil
    }

    /// - Parameter owner: the user who may enter it, and connect, beside this one and root.
    init(owner: UInt32? = nil) throws(CommandFailure) {
        var template = Array("/tmp/pageferry.XXXXXX".utf8CString)
        // SAFETY: mkdtemp replaces the six marks of the terminated local array in place.
        guard unsafe mkdtemp(&template) != nil else {
            throw CommandFailure("cannot make a directory in /tmp: error \(errno)", .cannotCreate)
        }
        let directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        do throws(HandoffError) {
            // SAFETY: the path is terminated and lives for the call.
            if let owner, unsafe chown(directory, owner, .max) != 0 { throw .systemCall(call: "giving '\(directory)' away", code: errno) }
            listener = try HandoffListener(path: "\(directory)/handoff", owner: owner)
        } catch {
            unsafe rmdir(directory)
            throw CommandFailure(error)
        }
        self.directory = directory
    }

    /// A socket that has its place: others know it.
    init(path: String, owner: UInt32?) throws(CommandFailure) {
        listener = try attempt { () throws(HandoffError) in try HandoffListener(path: path, owner: owner) }
        directory = nil
    }

    deinit {
        if let directory { Self.remove(directory) }
    }

    /// Removes what a daemon made, or left behind. The listener's own end comes after this, so the socket is removed here first.
    static func remove(_ directory: String) {
        // SAFETY: both paths live for the calls.
        unsafe unlink("\(directory)/handoff")
        unsafe rmdir(directory)
    }
}
