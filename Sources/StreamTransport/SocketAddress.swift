import CShims
import Glibc

/// An address in the kernel's form, by value.
struct SocketAddress {
    private(set) var storage = sockaddr_storage()
    private(set) var length: socklen_t = 0

    var family: Int32 { Int32(storage.ss_family) }

    /// The kernel's forms of `address`, at least one. Looks names up (getaddrinfo), so it may block: set-up only.
    static func resolve(_ address: StreamAddress, listening: Bool) throws(StreamError) -> [SocketAddress] {
        switch address {
        case .unix(let path):
            return [try SocketAddress(path: path)]
        case .tcp(let host, let port):
            return try resolve(host: host, port: port, listening: listening)
        }
    }

    private init() {}

    private init(path: String) throws(StreamError) {
        var form = sockaddr_un()
        let bytes = path.utf8.count
        // SAFETY: the path's bytes are read within their length; the shim checks that they fit.
        length = unsafe path.withCString { unsafe CShimsSocket_unixAddress(&form, $0, bytes) }
        guard length > 0 else { throw .pathTooLong(path: path) }
        // SAFETY: sockaddr_storage has room for every address form.
        unsafe withUnsafeMutableBytes(of: &storage) { to in
            unsafe withUnsafeBytes(of: &form) { from in unsafe to.copyMemory(from: from) }
        }
    }

    private static func resolve(host: String, port: UInt16, listening: Bool) throws(StreamError) -> [SocketAddress] {
        var hints = unsafe addrinfo()
        unsafe hints.ai_family = AF_UNSPEC
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        unsafe hints.ai_flags = AI_NUMERICSERV | (listening ? AI_PASSIVE : AI_ADDRCONFIG)
        var list: UnsafeMutablePointer<addrinfo>?
        // SAFETY: the strings and hints outlive the call; the list is freed below.
        var status = unsafe getaddrinfo(host, String(port), &hints, &list)
        if status != 0, !listening {
            // A host with loopback only has no "configured" family; try once more without that wish.
            unsafe hints.ai_flags = AI_NUMERICSERV
            status = unsafe getaddrinfo(host, String(port), &hints, &list)
        }
        guard status == 0 else {
            throw .cannotResolve(host: host, reason: unsafe String(cString: gai_strerror(status)))
        }
        defer { unsafe freeaddrinfo(list) }
        var found: [SocketAddress] = []
        var next = unsafe list
        while let entry = unsafe next, found.count < mostForms {
            // SAFETY: the list's entries live until freeaddrinfo; each address has `ai_addrlen` bytes.
            if let form = unsafe entry.pointee.ai_addr, unsafe Int(entry.pointee.ai_addrlen) <= MemoryLayout<sockaddr_storage>.size {
                var address = SocketAddress()
                address.length = unsafe entry.pointee.ai_addrlen
                unsafe withUnsafeMutableBytes(of: &address.storage) { to in
                    unsafe to.copyMemory(from: UnsafeRawBufferPointer(start: form, count: Int(entry.pointee.ai_addrlen)))
                }
                found.append(address)
            }
            unsafe next = entry.pointee.ai_next
        }
        guard !found.isEmpty else { throw .cannotResolve(host: host, reason: "it has no address") }
        return found
    }

    /// A name with more addresses than this is cut: one connection is wanted.
    private static let mostForms = 16

    /// Calls `body` with the address as system calls take it.
    func withKernelForm<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        // SAFETY: every address form starts with the fields of sockaddr; the pointer is used inside the call only.
        unsafe withUnsafePointer(to: storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, length) }
        }
    }

    /// Reads an address through `getsockname` or `getpeername`; nil when the socket has none.
    static func read(_ call: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32) -> SocketAddress? {
        var address = SocketAddress()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        // SAFETY: the storage has room for every address form and is rebound for the call only.
        let status = unsafe withUnsafeMutablePointer(to: &address.storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { form in
                systemCall { unsafe call(form, &length) }
            }
        }
        guard status == 0 else { return nil }
        address.length = length
        return address
    }

    /// The address in numbers, nil when it is not TCP's.
    var numeric: StreamAddress? {
        guard family == AF_INET || family == AF_INET6 else { return nil }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var service = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        let status = unsafe withKernelForm { form, length in
            // SAFETY: both buffers are passed with their sizes.
            unsafe getnameinfo(
                form, length, &host, socklen_t(host.count), &service, socklen_t(service.count),
                Int32(NI_NUMERICHOST | NI_NUMERICSERV))
        }
        guard status == 0, let port = UInt16(Self.text(service)) else { return nil }
        return .tcp(host: Self.text(host), port: port)
    }

    /// Whether it leads no further than this host.
    var isLocal: Bool {
        guard family != AF_UNIX else { return true }
        guard case .tcp(let host, _)? = numeric else { return false }
        return family == AF_INET ? host.hasPrefix("127.") : host == "::1" || host.hasPrefix("::ffff:127.")
    }

    private static func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
