import Foundation
import Glibc
import PageFerry
import PageWire
import Testing

/// The other end of one connection, in a test's hands: says what it was told to, then reads until the peer hangs up.
final class ScriptedPeer: Sendable {
    let address: String
    private let listener: Int32
    private let thread: DedicatedThread

    /// Listens on a unix socket in `scratch`, and runs `script` with each connection, one after the other.
    init(in scratch: Scratch, name: String = "peer", script: @escaping @Sendable (RawConnection) -> Void) throws {
        let path = scratch.file(name)
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var name = unixAddress(path)
        let bound = withUnsafePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        try #require(bound == 0 && listen(listener, 8) == 0)
        address = "unix:\(path)"
        self.listener = listener
        thread = DedicatedThread(name: "scripted-peer") {
            while true {
                let descriptor = accept(listener, nil, nil)
                guard descriptor >= 0 else { return }
                let connection = RawConnection(descriptor)
                script(connection)
                shutdown(descriptor, Int32(SHUT_WR))
                connection.readToEnd()
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        thread.join()
        close(listener)
    }
}

func unixAddress(_ path: String) -> sockaddr_un {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8.prefix($0.count - 1)) }
    return address
}

/// A connected socket, byte by byte.
final class RawConnection: Sendable {
    private let descriptor: Int32

    init(_ descriptor: Int32) {
        self.descriptor = descriptor
        // No test hangs on a peer that does not answer.
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Connects to "unix:PATH" or "127.0.0.1:PORT".
    convenience init(to address: String) throws {
        let isUnix = address.hasPrefix("unix:")
        let descriptor = socket(isUnix ? AF_UNIX : AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        self.init(descriptor)
        let status: Int32
        if isUnix {
            var name = unixAddress(String(address.dropFirst(5)))
            status = withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
            }
        } else {
            var name = loopback(port: try #require(UInt16(address.split(separator: ":").last ?? "")))
            status = withUnsafePointer(to: &name) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
            }
        }
        try #require(status == 0, "the test connects to \(address)")
    }

    deinit { close(descriptor) }

    func write(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    func write(_ text: String) { write(Array(text.utf8)) }

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

    func hangUp() { shutdown(descriptor, Int32(SHUT_RDWR)) }
}

func loopback(port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
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

/// A loopback port that is bound for as long as this lives.
final class HeldPort {
    let port: UInt16
    private let descriptor: Int32

    init() throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var name = loopback(port: 0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let (descriptor, size) = (descriptor, length)
        let status = withUnsafeMutablePointer(to: &name) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, size) == 0 && listen(descriptor, 1) == 0 && getsockname(descriptor, address, &length) == 0
            }
        }
        port = UInt16(bigEndian: name.sin_port)
        try #require(status)
    }

    deinit { close(descriptor) }
}
