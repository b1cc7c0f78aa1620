import Glibc
import Handoff
import NativeHandoff

/// A hand-off socket in a directory that only this user can enter; both go with this value.
struct HandoffDirectory: ~Copyable {
    let listener: HandoffListener
    /// Removed with the socket; nil for a state directory, which stays.
    let directory: String?

    var path: String { listener.path }

    /// A socket that the next daemon will listen on too, when this one dies.
    init(in state: StateDirectory) throws(CommandFailure) {
        listener = try attempt { () throws(HandoffError) in try HandoffListener(path: state.file("handoff")) }
        directory = nil
    }

    init() throws(CommandFailure) {
        var template = Array("/tmp/pageferry.XXXXXX".utf8CString)
        // SAFETY: mkdtemp replaces the six marks of the terminated local array in place.
        guard unsafe mkdtemp(&template) != nil else {
            throw CommandFailure("cannot make a directory in /tmp: error \(errno)", .cannotCreate)
        }
        let directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        do throws(HandoffError) {
            listener = try HandoffListener(path: "\(directory)/handoff")
        } catch {
            unsafe rmdir(directory)
            throw CommandFailure(error)
        }
        self.directory = directory
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
