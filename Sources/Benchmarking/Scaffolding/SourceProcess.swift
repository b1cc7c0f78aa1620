import Demonstration
import Glibc
import PageCore
import PageFerry
import StreamTransport

/// `pageferry source --memory`, in a process of its own, ended with this value.
final class SourceProcess: Sendable {
    private static let startNanoseconds: UInt64 = 20_000_000_000

    let address: StreamAddress
    private let child: ChildProcess
    /// What it says: read to learn its address, and kept so that it never meets a closed pipe.
    private let messages: Int32

    var processIdentifier: pid_t { child.processIdentifier }

    /// - Parameters:
    ///   - kind: for TCP or RDMA; a unix socket has no RDMA.
    ///   - host: an address of this host to listen on.
    ///   - security: its options for TLS, or the one for none.
    ///   - prefix: a command that starts it elsewhere, in another network namespace say.
    init(
        executablePath: String, memory: borrowing MemoryImage, kind: SocketKind, mode: WaitMode,
        transport: TransportChoice = .tcp, host: String = "127.0.0.1", prefix: [String] = [], security: [String] = ["--insecure"]
    ) throws(BenchmarkError) {
        var ends: [Int32] = [0, 0]
        // SAFETY: an array of two descriptors, filled during the call.
        guard unsafe pipe(&ends) == 0 else { throw BenchmarkError("cannot make a pipe: error \(errno)") }
        _ = fcntl(ends[0], F_SETFD, FD_CLOEXEC)
        _ = fcntl(ends[1], F_SETFD, FD_CLOEXEC)
        let listen = kind == .tcp ? "\(host):0" : "unix:\(memory.path).\(mode.rawValue)"
        do throws(DemonstrationError) {
            child = try ChildProcess(
                prefix + [
                    executablePath, "source", "--memory", memory.path, "--listen", listen, "--poll", mode.rawValue,
                    "--bulk-lanes", "8", "--transport", transport.rawValue,
                ] + security, inheriting: [STDERR_FILENO: ends[1]])
        } catch {
            close(ends[0])
            close(ends[1])
            throw BenchmarkError(error.description)
        }
        close(ends[1])
        messages = ends[0]
        if kind == .unix { Leftovers.expect(String(listen.dropFirst("unix:".count))) }
        do throws(BenchmarkError) {
            address = try Self.readAddress(messages)
        } catch {
            child.end()
            close(messages)
            throw error
        }
    }

    deinit {
        child.end()
        close(messages)
        if case .unix(let path) = address { Leftovers.remove(path) }
    }

    /// The address in "serving … on ADDRESS", behind which the transports may be told.
    private static func readAddress(_ descriptor: Int32) throws(BenchmarkError) -> StreamAddress {
        let deadline = MonotonicClock.nowNanoseconds() + startNanoseconds
        var text = ""
        while MonotonicClock.nowNanoseconds() < deadline {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            var bytes = [UInt8](repeating: 0, count: 4096)
            // SAFETY: one local entry, and a buffer passed with its size.
            guard unsafe poll(&entry, 1, 100) > 0 else { continue }
            let count = unsafe read(descriptor, &bytes, bytes.count)
            guard count > 0 else { break }
            text += String(decoding: bytes[..<count], as: UTF8.self)
            for line in text.split(separator: "\n") where line.contains("serving ") {
                let words = line.split(separator: " ")
                guard text.hasSuffix("\n"), let on = words.lastIndex(of: "on"), on + 1 < words.count else { continue }
                if let address = try? StreamAddress(parsing: String(words[on + 1])) { return address }
            }
        }
        throw BenchmarkError("the source did not start\(text.isEmpty ? "" : ": \(text.split(separator: "\n").last ?? "")")")
    }
}
