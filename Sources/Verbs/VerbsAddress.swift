import CShims
import Glibc

/// Where a peer listens, or is to listen: a host name or IP address of an interface with RDMA, and a port of RDMA_PS_TCP.
public struct VerbsAddress: Sendable, Hashable, CustomStringConvertible {
    public var host: String
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    public var description: String {
        if host.hasPrefix("rdma:") { return host }
        return host.contains(":") ? "rdma:[\(host)]:\(port)" : "rdma:\(host):\(port)"
    }
}

/// An address as the connection manager takes it (rdma_getaddrinfo(3)).
@safe struct ResolvedAddress: ~Copyable {
    private let information: UnsafeMutablePointer<rdma_addrinfo>

    init(_ address: VerbsAddress, passive: Bool) throws(VerbsError) {
        var hints = unsafe rdma_addrinfo()
        unsafe hints.ai_flags = passive ? Int32(RAI_PASSIVE) : 0
        unsafe hints.ai_port_space = Int32(RDMA_PS_TCP.rawValue)
        var answer: UnsafeMutablePointer<rdma_addrinfo>?
        // SAFETY: the texts live for the call; the library allocates the answer.
        let status = unsafe rdma_getaddrinfo(address.host, String(address.port), &hints, &answer)
        guard status == 0, let found = unsafe answer else {
            let reason = status > 0 || errno == 0 ? "no such address" : unsafe String(cString: strerror(errno))
            throw .cannotResolve(host: address.host, reason: reason)
        }
        unsafe information = found
    }

    deinit {
        // SAFETY: allocated by rdma_getaddrinfo, freed once.
        unsafe rdma_freeaddrinfo(information)
    }

    // SAFETY: both are good for as long as this value lives.
    var source: UnsafeMutablePointer<sockaddr>? { unsafe information.pointee.ai_src_addr }
    var destination: UnsafeMutablePointer<sockaddr>? { unsafe information.pointee.ai_dst_addr }
}
