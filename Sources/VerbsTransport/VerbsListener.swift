import PageCore
import Verbs

/// Listens for RDMA connections (rdma_listen(3)). Its device's connections share one protection domain, so that memory
/// registered once serves every session.
///
/// SAFETY: Sendable, because it has one owner, and changes only through its mutating methods.
public struct VerbsListener: ~Copyable, @unchecked Sendable {
    private var events: EventChannel
    private let identifier: ConnectionIdentifier
    /// The address in force.
    public let address: VerbsAddress
    private var domains: [ProtectionDomain] = []
    private static let backlog: Int32 = 64

    public init(on wanted: VerbsAddress) throws(VerbsError) {
        let channel = try EventChannel()
        let listening = try ConnectionIdentifier.listen(on: wanted, channel: channel, backlog: Self.backlog)
        address = VerbsAddress(host: wanted.host, port: listening.localPort)
        identifier = consume listening
        events = consume channel
    }

    /// Waits for one request. The connection is complete after `VerbsConnection.accept`, which may take as long as the peer.
    ///
    /// - Parameter wake: a descriptor that ends the wait as soon as it is readable.
    /// - Returns: nil when the time was over or `wake` became readable first.
    public mutating func nextRequest(
        timeoutNanoseconds: UInt64, wake: Int32? = nil, configuration: VerbsConfiguration = VerbsConfiguration()
    ) throws(VerbsError) -> VerbsConnection? {
        let now = MonotonicClock.nowNanoseconds()
        let deadline = timeoutNanoseconds > UInt64.max - now ? .max : now + timeoutNanoseconds
        while true {
            if let request = try events.nextRequest() { return try adopt(request, configuration) }
            guard try events.wait(until: deadline, wake: wake) else { return nil }
        }
    }

    private mutating func adopt(
        _ request: consuming ConnectionIdentifier, _ configuration: VerbsConfiguration
    ) throws(VerbsError) -> VerbsConnection {
        let channel = try EventChannel()
        try request.migrate(to: channel)
        let peer = request.peerDescription
        let domain: ProtectionDomain
        if let known = domains.first(where: { $0.covers(request) }) {
            domain = known
        } else {
            domain = try ProtectionDomain(of: request)
            domains.append(domain)
        }
        return try VerbsConnection(
            identifier: request, events: channel, domain: domain, peer: peer, configuration: configuration)
    }
}
