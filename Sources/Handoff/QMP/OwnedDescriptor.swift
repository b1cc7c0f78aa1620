import CShims
import Glibc

/// A descriptor with one owner: closed at the end of its life, once, whatever way an error takes.
struct OwnedDescriptor: ~Copyable, Sendable {
    let rawValue: Int32

    init(adopting rawValue: Int32) { self.rawValue = rawValue }

    deinit { close(rawValue) }

    /// Gives it up to somebody who closes it.
    consuming func release() -> Int32 {
        let value = rawValue
        discard self
        return value
    }
}

/// Two connected stream sockets, close-on-exec: between a daemon and its QEMU, without a path that could be left behind.
struct SocketPair: ~Copyable {
    let ours: OwnedDescriptor
    let theirs: OwnedDescriptor

    init() throws(QemuError) {
        var pair: [Int32] = [-1, -1]
        // SAFETY: two local integers, filled during the call.
        let status = unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair)
        guard status == 0 else { throw .systemCall("socketpair", code: errno) }
        ours = OwnedDescriptor(adopting: pair[0])
        theirs = OwnedDescriptor(adopting: pair[1])
    }
}

extension SocketPair {
    /// Keeps our end for somebody who closes it, and closes theirs, which has been passed on.
    consuming func releaseOurs() -> Int32 { ours.release() }
}
