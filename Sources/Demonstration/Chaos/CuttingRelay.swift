import Glibc
import PageCore
import PageFerry
import Synchronization

/// Passes connections on from one unix socket to another, and cuts all of them when told, or once so many bytes have gone through,
/// whatever they are in the middle of.
package final class CuttingRelay: Sendable {
    private struct State {
        var bytesLeft: Int
        var cuts = 0
        var sockets: [Int32] = []
        var threads: [DedicatedThread] = []
        var isStopped = false
    }

    package let path: String
    private let target: String
    /// Bytes a second in one direction of one connection; nil for as many as go.
    private let bytesPerSecond: Int?
    private let listener: Int32
    private let state: Mutex<State>
    private let nextBytes: @Sendable (Int) -> Int
    private let acceptor = Mutex<DedicatedThread?>(nil)

    /// - Parameter bytes: how many go through before the next cut, by the number of cuts so far.
    package init(
        path: String, to target: String, bytesPerSecond: Int? = nil, bytes: @escaping @Sendable (Int) -> Int = { _ in .max }
    ) throws(DemonstrationError) {
        self.path = path
        self.target = target
        self.bytesPerSecond = bytesPerSecond
        nextBytes = bytes
        state = Mutex(State(bytesLeft: bytes(0)))
        // SAFETY: the paths are terminated and live for the calls.
        unsafe unlink(path)
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard listener >= 0, unsafe Self.withAddress(path, { unsafe bind(listener, $0, $1) }) == 0, listen(listener, 64) == 0 else {
            throw DemonstrationError("cannot listen on \(path): error \(errno)")
        }
        acceptor.withLock { $0 = DedicatedThread(name: "relay") { [self] in accept() } }
    }

    package var cuts: Int { state.withLock { $0.cuts } }

    /// Cuts everything now.
    package func cut() {
        state.withLock { state in
            for socket in state.sockets { shutdown(socket, Int32(SHUT_RDWR)) }
            state.cuts += 1
            state.bytesLeft = nextBytes(state.cuts)
        }
    }

    package func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        acceptor.withLock { $0.take() }?.join()
        close(listener)
        // SAFETY: the path is terminated and lives for the call.
        unsafe unlink(path)
        let (threads, sockets) = state.withLock { state in
            state.isStopped = true
            for socket in state.sockets { shutdown(socket, Int32(SHUT_RDWR)) }
            return (state.threads, state.sockets)
        }
        for thread in threads { thread.join() }
        for socket in sockets { close(socket) }
    }

    private func accept() {
        while true {
            let near = Glibc.accept(listener, nil, nil)
            if near < 0 && errno == EINTR { continue }
            guard near >= 0 else { return }
            let far = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            // Where nobody listens the near end is closed by the first of its threads, as the real one would be refused.
            _ = unsafe Self.withAddress(target) { unsafe connect(far, $0, $1) }
            state.withLock { state in
                state.sockets += [near, far]
                for (from, to) in [(near, far), (far, near)] {
                    state.threads.append(DedicatedThread(name: "relay-lane") { [self] in pass(from, to) })
                }
            }
        }
    }

    /// Calls `body` with the address of a unix socket at `path`.
    private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // SAFETY: the path is cut to the field, whose last byte stays zero; the structure lives for the call.
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
    }

    private func pass(_ from: Int32, _ to: Int32) {
        var bytes = [UInt8](repeating: 0, count: 16 << 10)
        var owedNanoseconds = 0
        while true {
            // SAFETY: here and below: the array outlives the calls, and its count bounds them.
            let got = unsafe recv(from, &bytes, bytes.count, 0)
            if got < 0 && errno == EINTR { continue }
            guard got > 0 else { break }
            let most = state.withLock { state in
                state.bytesLeft -= got
                return state.bytesLeft < 0 ? max(0, got + state.bytesLeft) : got
            }
            var sent = 0
            while sent < most {
                let count = unsafe bytes.withUnsafeBytes { unsafe send(to, $0.baseAddress! + sent, most - sent, Int32(MSG_NOSIGNAL)) }
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { break }
                sent += count
            }
            if most < got { cut() }
            if let bytesPerSecond {
                // What makes the link slow: a connection that hangs up meanwhile is noticed afterwards.
                owedNanoseconds += got * 1_000_000_000 / bytesPerSecond
                if owedNanoseconds >= 1_000_000 {
                    _ = poll(nil, 0, Int32(owedNanoseconds / 1_000_000))
                    owedNanoseconds %= 1_000_000
                }
            }
        }
        shutdown(to, Int32(SHUT_RDWR))
        shutdown(from, Int32(SHUT_RDWR))
    }
}
