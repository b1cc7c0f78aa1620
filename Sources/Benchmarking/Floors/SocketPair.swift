import CShims
import Glibc

/// Two connected sockets of this host, with nothing of ours above them.
struct SocketPair: ~Copyable {
    let near: Int32
    let far: Int32

    init(_ kind: SocketKind) throws(BenchmarkError) {
        switch kind {
        case .unix:
            var ends: [Int32] = [0, 0]
            // SAFETY: an array of two descriptors, filled during the call.
            guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
                throw BenchmarkError("cannot make a socket pair: error \(errno)")
            }
            (near, far) = (ends[0], ends[1])
        case .tcp:
            (near, far) = try Self.connectLoopback()
            for end in [near, far] {
                var yes: Int32 = 1
                // SAFETY: an int option is set from an int.
                _ = unsafe setsockopt(end, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
            }
        }
    }

    deinit {
        close(near)
        close(far)
    }

    /// Ends both directions: whoever waits at either end learns of it.
    func shut() {
        shutdown(near, Int32(SHUT_RDWR))
        shutdown(far, Int32(SHUT_RDWR))
    }

    private static func connectLoopback() throws(BenchmarkError) -> (Int32, Int32) {
        let flags = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        let listener = socket(AF_INET, flags, 0)
        let near = socket(AF_INET, flags, 0)
        guard listener >= 0, near >= 0 else { throw BenchmarkError("cannot make a TCP socket: error \(errno)") }
        defer { close(listener) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(INADDR_LOOPBACK).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        // SAFETY: sockaddr_in starts with the fields of sockaddr; every pointer is used inside its call only.
        let isConnected = unsafe withUnsafeMutablePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { form in
                unsafe bind(listener, form, length) == 0 && listen(listener, 1) == 0 && getsockname(listener, form, &length) == 0
                    && connect(near, form, length) == 0
            }
        }
        let far = isConnected ? accept(listener, nil, nil) : -1
        guard far >= 0 else {
            close(near)
            throw BenchmarkError("cannot connect over loopback: error \(errno)")
        }
        return (near, far)
    }
}

/// Transfers of whole buffers, spinning or sleeping.
///
/// SAFETY: every function's caller owns the bytes for the length of the call.
enum BareTransfer {
    /// - Returns: false when the connection has ended.
    static func receive(_ socket: Int32, _ pointer: UnsafeMutableRawPointer, count: Int, mode: WaitMode) -> Bool {
        let flags = mode == .busy ? Int32(MSG_DONTWAIT) : Int32(MSG_WAITALL)
        var done = 0
        while done < count {
            let result = unsafe recv(socket, pointer + done, count - done, flags)
            if result > 0 {
                done += result
            } else if result == 0 {
                return false
            } else if errno != EAGAIN && errno != EINTR {
                return false
            }
        }
        return true
    }

    /// - Returns: false when the connection has ended.
    static func send(_ socket: Int32, _ pointer: UnsafeRawPointer, count: Int) -> Bool {
        var done = 0
        while done < count {
            let result = unsafe Glibc.send(socket, pointer + done, count - done, Int32(MSG_NOSIGNAL))
            if result >= 0 {
                done += result
            } else if errno != EINTR {
                return false
            }
        }
        return true
    }
}
