import Glibc
import PageCore
import PageWire
import Testing

/// A connected socket, byte by byte.
final class RawConnection: Sendable {
    private let descriptor: Int32

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
        // No test hangs on a peer that does not answer.
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Connects to a unix socket.
    convenience init(path: String) throws {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        self.init(descriptor)
        var name = unixAddress(path)
        let status = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        try #require(status == 0, "the test connects to \(path)")
    }

    deinit { close(descriptor) }

    func write(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    /// A whole frame.
    func write(_ header: FrameHeader, _ payload: [UInt8] = []) {
        var header = header
        header.payloadBytes = payload.count
        write(headerBytes(header) + payload)
    }

    /// `count` bytes, or fewer at the end of the stream.
    func read(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: count)
        while bytes.count < count {
            let got = recv(descriptor, &piece, count - bytes.count, 0)
            if got < 0 && errno == EINTR { continue }
            guard got > 0 else { break }
            bytes += piece[..<got]
        }
        return bytes
    }

    /// The next frame; nil at the end of the stream.
    func readFrame() -> (header: FrameHeader, payload: [UInt8])? {
        let bytes = read(FrameHeader.byteCount)
        guard bytes.count == FrameHeader.byteCount, let header = try? FrameHeader(decoding: bytes.span.bytes) else { return nil }
        return (header, read(header.payloadBytes))
    }

    func readToEnd() {
        while !read(4096).isEmpty {}
    }

    /// Whether the peer has not hung up yet.
    var isOpen: Bool {
        var entry = pollfd(fd: descriptor, events: 0, revents: 0)
        return poll(&entry, 1, 0) == 0
    }

    func hangUp() { shutdown(descriptor, Int32(SHUT_RDWR)) }
}

func unixAddress(_ path: String) -> sockaddr_un {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
    return address
}

func headerBytes(_ header: FrameHeader) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
    bytes.withUnsafeMutableBytes { raw in
        var span = raw.mutableBytes
        header.encode(into: &span)
    }
    return bytes
}
