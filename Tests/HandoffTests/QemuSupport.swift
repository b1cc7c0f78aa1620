import CShims
import Foundation
import Glibc
import PageCore
import Synchronization
import Testing

@testable import Handoff

let qemuProgram = "/usr/bin/qemu-system-x86_64"

let qemuCanRun: Bool = {
    if access(qemuProgram, X_OK) == 0 { return true }
    print("skipped: '\(qemuProgram)' is missing; install qemu-system-x86")
    return false
}()

func inSeconds(_ count: UInt64) -> UInt64 { MonotonicClock.nowNanoseconds() + count * seconds }

/// A directory in /dev/shm for RAM files and sockets, gone with this value.
final class QemuScratch: Sendable {
    let path: String

    init() {
        path = "/dev/shm/pageferry-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        mkdir(path, 0o700)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    var monitor: String { "\(path)/qmp" }
    func file(_ name: String = "ram") -> String { "\(path)/\(name)" }

    func fileBackend(_ id: String = "ram", megabytes: Int = 64, path: String? = nil) -> String {
        "memory-backend-file,id=\(id),size=\(megabytes)M,mem-path=\(path ?? file(id)),share=on"
    }
}

/// A QEMU without a disk, whose guest sits in its firmware. Killed at the end of its life.
final class RunningQemu {
    let child: QemuProcess

    /// A machine on one backend with the id "ram", or on several as NUMA nodes in their order.
    static func arguments(_ backends: [String], _ more: [String] = [], megabytes: Int = 64) -> [String] {
        var arguments = [qemuProgram, "-nodefaults", "-display", "none", "-m", "\(megabytes)M"]
        for backend in backends { arguments += ["-object", backend] }
        if backends.count == 1 {
            arguments += ["-machine", "q35,accel=tcg,memory-backend=ram"]
        } else {
            arguments += ["-machine", "q35,accel=tcg"]
            for backend in backends { arguments += ["-numa", "node,memdev=\(QemuCommandLine.parse(backend)["id"]!)"] }
        }
        return arguments + more
    }

    init(_ arguments: [String], _ scratch: QemuScratch) throws {
        let child = try QemuProcess(
            arguments + ["-qmp", "unix:\(scratch.monitor),server=on,wait=off"], environment: Environment.current, inheriting: [2],
            ownSession: true, keepsErrorOutput: false)
        self.child = child
        // The socket is there before QEMU listens on it.
        let isReady = poll(until: {
            child.waitForEnd(timeoutMilliseconds: 0) != nil || (try? QMPClient(connectingTo: scratch.monitor)) != nil
        })
        try #require(isReady)
    }

    deinit {
        child.signal(SIGKILL)
        _ = child.waitForEnd(timeoutMilliseconds: 10_000)
    }
}

/// A destination on memory that is there already, so that no page needs to come. Killed at the end of its life.
final class RunningDestination {
    let qemu: QemuDestination

    init(_ arguments: [String]) throws {
        qemu = try QemuDestination(try QemuCommandLine(arguments), preloadLibrary: nil, handoffPath: "")
        try qemu.connect(timeoutNanoseconds: 20 * seconds)
    }

    deinit { qemu.kill() }
}

/// Carries machine state one way and the return path the other, as the daemons do. It can break the connection.
final class StreamRelay: Sendable {
    struct Progress {
        var forward = 0
        var backward: [UInt8] = []
        var isCut = false
        var hasEnded = false
    }

    private let state = Mutex(Progress())

    /// - Parameter cutAfterBytes: both sockets are closed once so many bytes have gone forward.
    init(source: Int32, destination: Int32, cutAfterBytes: Int = .max) {
        if cutAfterBytes == 0 { cut() }
        _ = Runner { [self] in
            run(source, destination, cutAfterBytes)
            close(source)
            close(destination)
            state.withLock { $0.hasEnded = true }
            return true
        }
    }

    /// Breaks the connection.
    func cut() { state.withLock { $0.isCut = true } }

    var progress: Progress { state.withLock { $0 } }

    func waitForEnd() -> Bool { poll(until: { progress.hasEnded }) }

    private func run(_ source: Int32, _ destination: Int32, _ limit: Int) {
        var openSource = true
        var openDestination = true
        while openSource || openDestination, !progress.isCut {
            var entries = [
                pollfd(fd: openSource ? source : -1, events: Int16(POLLIN), revents: 0),
                pollfd(fd: openDestination ? destination : -1, events: Int16(POLLIN), revents: 0),
            ]
            guard Glibc.poll(&entries, 2, 5) > 0 else { continue }
            if entries[0].revents != 0 {
                let room = limit - progress.forward
                let bytes = Self.read(source, atMost: min(room, 65536))
                Self.write(bytes, to: destination)
                openSource = !bytes.isEmpty
                if bytes.isEmpty { shutdown(destination, Int32(SHUT_WR)) }
                state.withLock { $0.forward += bytes.count }
                if progress.forward >= limit { return }
            }
            if entries[1].revents != 0 {
                let bytes = Self.read(destination, atMost: 65536)
                Self.write(bytes, to: source)
                openDestination = !bytes.isEmpty
                if bytes.isEmpty { shutdown(source, Int32(SHUT_WR)) }
                state.withLock { $0.backward += bytes }
            }
        }
    }

    private static func read(_ socket: Int32, atMost count: Int) -> [UInt8] {
        var piece = [UInt8](repeating: 0, count: count)
        return Array(piece[..<max(0, recv(socket, &piece, count, 0))])
    }

    private static func write(_ bytes: [UInt8], to socket: Int32) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { send(socket, $0.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return }
            sent += count
        }
    }
}
