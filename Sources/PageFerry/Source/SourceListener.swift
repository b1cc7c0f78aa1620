import StreamTransport
import Verbs
import VerbsTransport

/// Where a source waits for destinations: for TCP, for RDMA, or for both at one address.
public struct SourceListener: ~Copyable, Sendable {
    var stream: StreamListener?
    var verbs: VerbsListener?
    /// The address in force, for people.
    public let description: String
    /// The address in force, for destinations.
    public let address: StreamAddress
    /// Why RDMA is not offered although it was wanted if possible.
    public let fallback: VerbsError?

    /// Takes a TCP or unix listener, and listens for RDMA at the same address as `transport` says.
    ///
    /// - Parameters:
    ///   - stream: nil when only RDMA is wanted.
    ///   - wanted: the address, as it was asked for.
    ///   - transport: `auto` offers TCP, and RDMA too where this host can.
    public init(
        _ stream: consuming StreamListener?, on wanted: StreamAddress, transport: TransportChoice
    ) throws(SessionError) {
        var address = stream?.address ?? wanted
        var verbs: VerbsListener?
        var fallback: VerbsError?
        if transport != .tcp {
            do throws(VerbsError) {
                verbs = try Self.listen(on: address)
            } catch {
                guard transport == .auto else { throw SessionError(error) }
                fallback = error
            }
        }
        if case .tcp(let host, _) = address, let port = verbs?.address.port { address = .tcp(host: host, port: port) }
        let ways = verbs == nil ? "TCP" : transport == .rdma ? "RDMA" : "TCP and RDMA"
        description = transport == .tcp ? address.description : "\(address.description) (\(ways))"
        self.stream = stream
        self.verbs = verbs
        self.address = address
        self.fallback = fallback
    }

    private static func listen(on address: StreamAddress) throws(VerbsError) -> VerbsListener {
        guard case .tcp(let host, let port) = address else {
            throw .cannotResolve(host: address.description, reason: "RDMA needs a host and a port")
        }
        return try VerbsListener(on: VerbsAddress(host: host, port: port))
    }
}
