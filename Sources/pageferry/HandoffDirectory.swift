import Glibc
import Handoff

/// A hand-off socket in a directory that only this user can enter; both go with this value.
struct HandoffDirectory: ~Copyable {
    let listener: HandoffListener
    private let directory: String

    var path: String { listener.path }

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
        // The listener's own end comes after this, so the socket is removed here first.
        unsafe unlink("\(directory)/handoff")
        unsafe rmdir(directory)
    }
}
