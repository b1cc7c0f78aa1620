import Glibc
import PageCore
import Synchronization

@testable import PageFerry

/// Passes connections on from one unix socket to another, and cuts all of them once so many bytes have gone through, whatever
/// they are in the middle of.
final class CuttingRelay: Sendable {
    private struct State {
        var bytesLeft: Int
        var cuts = 0
        var isSilent = false
        var sockets: [Int32] = []
        var threads: [DedicatedThread] = []
    }

    let path: String
    private let target: String
    private let listener: Int32
    private let state: Mutex<State>
    private let nextBytes: @Sendable (Int) -> Int
    private let acceptor = Mutex<DedicatedThread?>(nil)

    /// - Parameter bytes: how many go through before the next cut, by the number of cuts so far.
    init(path: String, to target: String, bytes: @escaping @Sendable (Int) -> Int) {
        self.path = path
        self.target = target
        nextBytes = bytes
        state = Mutex(State(bytesLeft: bytes(0)))
        unlink(path)
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var name = unixAddress(path)
        let status = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        precondition(status == 0 && listen(listener, 64) == 0, "the test listens on \(path)")
        acceptor.withLock { $0 = DedicatedThread(name: "relay") { [self] in accept() } }
    }

    var cuts: Int { state.withLock { $0.cuts } }

    /// Cuts everything now.
    func cut() {
        state.withLock { state in
            for socket in state.sockets { shutdown(socket, Int32(SHUT_RDWR)) }
            state.cuts += 1
            state.bytesLeft = nextBytes(state.cuts)
        }
    }

    func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        acceptor.withLock { $0.take() }?.join()
        close(listener)
        unlink(path)
        let (threads, sockets) = state.withLock { state in
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
            var name = unixAddress(target)
            _ = withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(far, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
            }
            state.withLock { state in
                state.sockets += [near, far]
                for (from, to) in [(near, far), (far, near)] {
                    state.threads.append(DedicatedThread(name: "relay-lane") { [self] in pass(from, to) })
                }
            }
        }
    }

    private func pass(_ from: Int32, _ to: Int32) {
        var bytes = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let got = recv(from, &bytes, bytes.count, 0)
            if got < 0 && errno == EINTR { continue }
            guard got > 0 else { break }
            let most = state.withLock { state in
                state.bytesLeft -= got
                return state.bytesLeft < 0 ? max(0, got + state.bytesLeft) : got
            }
            var sent = 0
            while sent < most {
                let count = bytes.withUnsafeBytes { send(to, $0.baseAddress! + sent, most - sent, Int32(MSG_NOSIGNAL)) }
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else { break }
                sent += count
            }
            if most < got { cut() }
        }
        shutdown(to, Int32(SHUT_RDWR))
        shutdown(from, Int32(SHUT_RDWR))
    }
}
