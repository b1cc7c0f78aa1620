import CShims
import Glibc

/// Sockets between a daemon and its QEMU: never a path, so nothing is left behind.
enum QemuSockets {
    /// Two connected stream sockets, close-on-exec.
    static func pair() throws(QemuError) -> (Int32, Int32) {
        var pair: [Int32] = [-1, -1]
        // SAFETY: two local integers, filled during the call.
        let status = unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair)
        guard status == 0 else { throw .systemCall("socketpair", code: errno) }
        return (pair[0], pair[1])
    }
}
