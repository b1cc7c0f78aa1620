import Foundation
import Glibc
import PageCore

/// Lines over unix sockets, each end with a time-out.
enum UnixStream {
    /// - Returns: a listening descriptor, or -1 with errno. A socket nobody serves is replaced; the new one has mode 0600.
    static func listen(_ path: String) -> Int32 {
        let probe = connect(path)
        if probe >= 0 {
            close(probe)
            errno = EADDRINUSE
            return -1
        }
        var status = stat()
        // SAFETY: here and below: paths are terminated, structures and buffers local; all live for the calls.
        if unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK { unsafe unlink(path) }
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        // Nobody can connect before listen(2): there is no moment with wider permissions.
        guard listener >= 0, unsafe withAddress(path, { unsafe bind(listener, $0, $1) }) == 0, unsafe chmod(path, 0o600) == 0,
            Glibc.listen(listener, 4) == 0
        else {
            let code = errno
            if listener >= 0 { close(listener) }
            errno = code
            return -1
        }
        return listener
    }

    /// - Returns: a connected descriptor, or -1.
    static func connect(_ path: String) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0, unsafe withAddress(path, { unsafe Glibc.connect(descriptor, $0, $1) }) == 0 else {
            if descriptor >= 0 { close(descriptor) }
            return -1
        }
        return descriptor
    }

    /// Bounds each wait on the connection.
    static func limit(_ connection: Int32, seconds: Int) {
        var limit = timeval(tv_sec: seconds, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            unsafe setsockopt(connection, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
    }

    /// The bytes up to a line's end; nil when none comes in time, or is too long.
    ///
    /// - Parameter seconds: for the whole line, however it comes.
    static func readLine(_ connection: Int32, mostBytes: Int, seconds: Int) -> Data? {
        var line = Data()
        var buffer = [UInt8](repeating: 0, count: 4096)
        let deadline = MonotonicClock.nowNanoseconds() + UInt64(seconds) * 1_000_000_000
        while line.count <= mostBytes {
            let now = MonotonicClock.nowNanoseconds()
            guard now < deadline else { return nil }
            var entry = pollfd(fd: connection, events: Int16(POLLIN), revents: 0)
            let ready = unsafe poll(&entry, 1, Int32((deadline - now) / 1_000_000) + 1)
            if ready < 0 && errno == EINTR { continue }
            guard ready > 0 else { return nil }
            let count = unsafe recv(connection, &buffer, buffer.count, 0)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return nil }
            if let end = buffer[..<count].firstIndex(of: 10) { return line + buffer[..<end] }
            line += buffer[..<count]
        }
        return nil
    }

    @discardableResult
    static func write(_ connection: Int32, _ data: Data) -> Bool {
        let bytes = Array(data)
        var sent = 0
        while sent < bytes.count {
            let count = unsafe bytes.withUnsafeBytes {
                unsafe send(connection, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
            }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }

    private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
            errno = ENAMETOOLONG
            return -1
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }
}
