import CShims
import Glibc
import PageCore

/// The owner of one end of a connection, or of a listener (rdma_create_id(3)): what a socket is for TCP.
///
/// Goes after its queue pair and completion queue, before its event channel.
@safe public struct ConnectionIdentifier: ~Copyable {
    let raw: UnsafeMutablePointer<rdma_cm_id>

    /// Local acknowledgement time-out 4.096 us * 2^14 = 67 ms: with six retries a dead peer is noticed within a second.
    private static let acknowledgementExponent: UInt8 = 14

    init(adopting identifier: UnsafeMutablePointer<rdma_cm_id>) { unsafe raw = identifier }

    init(on channel: borrowing EventChannel) throws(VerbsError) {
        var identifier: UnsafeMutablePointer<rdma_cm_id>?
        // SAFETY: the library writes the new identifier; the channel outlives it, as documented.
        guard unsafe rdma_create_id(channel.raw, &identifier, nil, RDMA_PS_TCP) == 0, let created = unsafe identifier else {
            switch errno {
            case ENODEV, ENOENT, EACCES, EPERM: throw .noDevice(errno: errno)
            case let number: throw .failed(call: .createIdentifier, errno: number)
            }
        }
        unsafe raw = created
    }

    deinit {
        // SAFETY: destroyed once; its events have been acknowledged as they were taken.
        unsafe rdma_destroy_id(raw)
    }

    // MARK: Connecting

    /// Finds the device and the route that lead to an address.
    public static func resolve(
        _ address: VerbsAddress, on channel: inout EventChannel, until deadlineNanoseconds: UInt64
    ) throws(VerbsError) -> ConnectionIdentifier {
        let identifier = try ConnectionIdentifier(on: channel)
        let target = try ResolvedAddress(address, passive: false)
        let timeout = Self.milliseconds(until: deadlineNanoseconds)
        // SAFETY: the address lives for the call, which copies it.
        guard unsafe rdma_resolve_addr(identifier.raw, nil, target.destination, timeout) == 0 else {
            throw .noRoute(address: address.description, errno: errno)
        }
        try identifier.expect(.addressResolved, of: address, on: &channel, until: deadlineNanoseconds)
        // Devices without the option keep their own time-out, which only delays bad news.
        _ = unsafe pageferry_verbs_limit_silence(identifier.raw, acknowledgementExponent)
        guard unsafe rdma_resolve_route(identifier.raw, timeout) == 0 else {
            throw .noRoute(address: address.description, errno: errno)
        }
        try identifier.expect(.routeResolved, of: address, on: &channel, until: deadlineNanoseconds)
        return identifier
    }

    /// Connects; the queue pair must have been made, and buffers posted.
    ///
    /// - Parameter reads: RDMA READs that may be outstanding each way.
    public func connect(
        to address: VerbsAddress, reads: Int, on channel: inout EventChannel, until deadlineNanoseconds: UInt64
    ) throws(VerbsError) {
        var parameters = unsafe pageferry_verbs_parameters(UInt8(min(reads, 255)))
        // SAFETY: the parameters live for the call and name no private data.
        guard unsafe rdma_connect(raw, &parameters) == 0 else { throw .failed(call: .connect, errno: errno) }
        try expect(.established, of: address, on: &channel, until: deadlineNanoseconds)
    }

    private func expect(
        _ wanted: ConnectionEvent, of address: VerbsAddress, on channel: inout EventChannel, until deadlineNanoseconds: UInt64
    ) throws(VerbsError) {
        while try channel.wait(until: deadlineNanoseconds) {
            guard let event = channel.nextEvent() else { continue }
            switch event {
            case wanted: return
            case .rejected: throw .rejected(address: address.description)
            case .unreachable(let status): throw .unreachable(address: address.description, status: status)
            case .failed(let status): throw .noRoute(address: address.description, errno: -status)
            case .disconnected: throw .disconnected(peer: address.description)
            case .deviceRemoved: throw .deviceRemoved
            default: continue
            }
        }
        throw .timedOut(peer: address.description)
    }

    // MARK: Listening

    public static func listen(on address: VerbsAddress, channel: borrowing EventChannel, backlog: Int32) throws(VerbsError)
        -> ConnectionIdentifier
    {
        let identifier = try ConnectionIdentifier(on: channel)
        let target = try ResolvedAddress(address, passive: true)
        // SAFETY: the address lives for the call, which copies it.
        guard unsafe rdma_bind_addr(identifier.raw, target.source) == 0, unsafe rdma_listen(identifier.raw, backlog) == 0 else {
            throw .cannotListen(address: address.description, errno: errno)
        }
        return identifier
    }

    /// Moves an accepted connection's events to a channel of its own.
    public func migrate(to channel: borrowing EventChannel) throws(VerbsError) {
        guard unsafe rdma_migrate_id(raw, channel.raw) == 0 else { throw .failed(call: .migrate, errno: errno) }
    }

    /// Accepts a connection request; the queue pair must have been made, and buffers posted.
    public func accept(reads: Int, on channel: inout EventChannel, until deadlineNanoseconds: UInt64) throws(VerbsError) {
        _ = unsafe pageferry_verbs_limit_silence(raw, Self.acknowledgementExponent)
        var parameters = unsafe pageferry_verbs_parameters(UInt8(min(reads, 255)))
        // SAFETY: the parameters live for the call and name no private data.
        guard unsafe rdma_accept(raw, &parameters) == 0 else { throw .failed(call: .accept, errno: errno) }
        let peer = VerbsAddress(host: peerDescription, port: 0)
        try expect(.established, of: peer, on: &channel, until: deadlineNanoseconds)
    }

    // MARK: Both

    /// The port in force: with port 0 asked for, the one chosen.
    public var localPort: UInt16 { unsafe pageferry_verbs_local_port(raw) }

    /// The device's name, as `rdma link` shows it; nil before one is chosen.
    public var deviceName: String? {
        guard let context = unsafe raw.pointee.verbs else { return nil }
        return unsafe String(cString: ibv_get_device_name(context.pointee.device))
    }

    /// RDMA READs that the device lets be outstanding on one queue pair, at most `wanted`.
    public func readDepth(wanted: Int) -> Int {
        var attributes = ibv_device_attr()
        // SAFETY: the library fills the structure.
        guard let context = unsafe raw.pointee.verbs, unsafe ibv_query_device(context, &attributes) == 0 else { return 1 }
        return max(1, min(wanted, Int(min(attributes.max_qp_rd_atom, attributes.max_qp_init_rd_atom))))
    }

    /// The peer, for messages.
    public var peerDescription: String {
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var service = [CChar](repeating: 0, count: Int(NI_MAXSERV))
        guard let address = unsafe pageferry_verbs_peer_address(raw) else { return "rdma peer" }
        let length =
            unsafe address.pointee.sa_family == sa_family_t(AF_INET6) ? MemoryLayout<sockaddr_in6>.size : MemoryLayout<sockaddr_in>.size
        // SAFETY: both buffers have the lengths given, the address the length of its family.
        guard
            unsafe getnameinfo(
                address, socklen_t(length), &host, socklen_t(host.count), &service, socklen_t(service.count),
                NI_NUMERICHOST | NI_NUMERICSERV) == 0
        else { return "rdma peer" }
        return "rdma:\(text(host)):\(text(service))"
    }

    private func text(_ characters: [CChar]) -> String {
        String(decoding: characters.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Ends the connection in an orderly way; the peer learns of it.
    public func disconnect() { _ = unsafe rdma_disconnect(raw) }

    private static func milliseconds(until deadlineNanoseconds: UInt64) -> Int32 {
        let now = MonotonicClock.nowNanoseconds()
        return deadlineNanoseconds <= now ? 1 : Int32(min((deadlineNanoseconds - now) / 1_000_000 + 1, 60_000))
    }
}
