/// Where a stream listens or connects to: `HOST:PORT`, `[IPV6]:PORT` or `unix:PATH`.
public enum StreamAddress: Sendable, Hashable {
    case tcp(host: String, port: UInt16)
    case unix(path: String)

    /// Reads an address as a person writes it. Names are not looked up here.
    public init(parsing text: String) throws(StreamError) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst("unix:".count))
            guard !path.isEmpty else { throw .badAddress(text: text, reason: "the path is missing") }
            guard !path.utf8.contains(0) else { throw .badAddress(text: text, reason: "the path holds a zero byte") }
            guard path.utf8.count <= Self.longestPathBytes else { throw .pathTooLong(path: path) }
            self = .unix(path: path)
            return
        }
        guard let colon = text.lastIndex(of: ":") else {
            throw .badAddress(text: text, reason: "the port is missing")
        }
        let portText = text[text.index(after: colon)...]
        guard portText.utf8.allSatisfy({ $0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9") }), let port = UInt16(portText) else {
            throw .badAddress(text: text, reason: portText.isEmpty ? "the port is missing" : "the port is not a number from 0 to 65535")
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw .badAddress(text: text, reason: "an IPv6 address belongs in brackets")
        }
        guard !host.contains("["), !host.contains("]") else {
            throw .badAddress(text: text, reason: "the brackets do not match")
        }
        guard !host.isEmpty else { throw .badAddress(text: text, reason: "the host is missing (0.0.0.0 listens everywhere)") }
        guard !host.utf8.contains(0) else { throw .badAddress(text: text, reason: "the host holds a zero byte") }
        self = .tcp(host: String(host), port: port)
    }

    /// The longest path of a unix socket, in bytes: `sun_path` less its terminator.
    static let longestPathBytes = 107
}

extension StreamAddress {
    /// Whether what is sent there stays on this host: a unix socket, or a name that means loopback addresses alone (127.0.0.0/8,
    /// ::1). Looks names up, so it may block.
    public var isLocal: Bool {
        get throws(StreamError) {
            try SocketAddress.resolve(self, listening: false).allSatisfy(\.isLocal)
        }
    }
}

extension StreamAddress: CustomStringConvertible {
    public var description: String {
        switch self {
        // In brackets also a host whose name reads as a path's.
        case .tcp(let host, let port): host.contains(":") || host == "unix" ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): "unix:\(path)"
        }
    }
}
