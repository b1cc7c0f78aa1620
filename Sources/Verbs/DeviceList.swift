import CShims
import Glibc

/// One RDMA device of this host, for people (ibv_query_device(3), ibv_query_port(3)).
public struct DeviceDescription: Sendable, Codable, Hashable {
    public struct Port: Sendable, Codable, Hashable {
        public var number: Int
        /// As `ibv_devinfo` names it.
        public var state: String
        public var isActive: Bool
        /// The largest payload of one packet.
        public var mtuBytes: Int
        public var linkLayer: String
        /// The filled entries of the table of addresses, by index.
        public var identifiers: [Identifier]
    }

    public struct Identifier: Sendable, Codable, Hashable {
        public var index: Int
        public var text: String
    }

    public var name: String
    public var ports: [Port]
    /// RDMA READs that may be outstanding on one queue pair.
    public var mostReads: Int
    public var mostRegistrations: Int

    /// The IPv4 addresses that lead over the device: those its tables name as mapped ones.
    public var addresses: [String] {
        var addresses: [String] = []
        for identifier in ports.flatMap(\.identifiers) {
            guard identifier.text.hasPrefix("::ffff:"), identifier.text.contains(".") else { continue }
            let address = String(identifier.text.dropFirst("::ffff:".count))
            if !addresses.contains(address) { addresses.append(address) }
        }
        return addresses
    }

    /// The devices of this host; empty when there are none, or no driver is loaded.
    public static func all() throws(VerbsError) -> [DeviceDescription] {
        var count: Int32 = 0
        guard let list = unsafe ibv_get_device_list(&count) else {
            // Without the kernel's interface there are none.
            if errno == ENOSYS || errno == ENOENT { return [] }
            throw .failed(call: .listDevices, errno: errno)
        }
        defer { unsafe ibv_free_device_list(list) }
        var devices: [DeviceDescription] = []
        for index in 0..<Int(count) {
            // SAFETY: the list has `count` entries.
            guard let device = unsafe list[index] else { continue }
            let context = unsafe try DeviceContext(device)
            devices.append(try context.describe())
        }
        return devices
    }
}

/// The owner of an opened device (ibv_open_device(3)).
@safe struct DeviceContext: ~Copyable {
    private let raw: UnsafeMutablePointer<ibv_context>

    @unsafe init(_ device: UnsafeMutablePointer<ibv_device>) throws(VerbsError) {
        guard let context = unsafe ibv_open_device(device) else { throw .failed(call: .openDevice, errno: errno) }
        unsafe raw = context
    }

    deinit {
        // SAFETY: opened once, closed once; nothing was made on it.
        unsafe _ = ibv_close_device(raw)
    }

    func describe() throws(VerbsError) -> DeviceDescription {
        var attributes = ibv_device_attr()
        // SAFETY: the library fills the structure.
        let status = unsafe ibv_query_device(raw, &attributes)
        guard status == 0 else { throw .failed(call: .queryDevice, errno: status) }
        var ports: [DeviceDescription.Port] = []
        for number in stride(from: 1, through: Int(attributes.phys_port_cnt), by: 1) {
            if let port = describe(port: UInt8(number)) { ports.append(port) }
        }
        return DeviceDescription(
            name: unsafe String(cString: ibv_get_device_name(raw.pointee.device)), ports: ports,
            mostReads: Int(attributes.max_qp_rd_atom), mostRegistrations: Int(attributes.max_mr))
    }

    private func describe(port: UInt8) -> DeviceDescription.Port? {
        var attributes = ibv_port_attr()
        // SAFETY: the library fills the structure.
        guard unsafe pageferry_verbs_query_port(raw, port, &attributes) == 0 else { return nil }
        var identifiers: [DeviceDescription.Identifier] = []
        for index in 0..<min(Int(attributes.gid_tbl_len), 16) {
            var bytes = [UInt8](repeating: 0, count: 16)
            // SAFETY: the array has the sixteen bytes the shim fills.
            guard unsafe pageferry_verbs_query_gid(raw, port, Int32(index), &bytes) == 0, bytes.contains(where: { $0 != 0 }) else {
                continue
            }
            identifiers.append(DeviceDescription.Identifier(index: index, text: Self.text(bytes)))
        }
        return DeviceDescription.Port(
            number: Int(port), state: unsafe String(cString: ibv_port_state_str(attributes.state)),
            isActive: attributes.state == IBV_PORT_ACTIVE, mtuBytes: 128 << Int(attributes.active_mtu.rawValue),
            linkLayer: attributes.link_layer == UInt8(IBV_LINK_LAYER_ETHERNET) ? "Ethernet" : "InfiniBand", identifiers: identifiers)
    }

    /// As an IPv6 address, which is what it is on Ethernet.
    private static func text(_ bytes: [UInt8]) -> String {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        // SAFETY: sixteen bytes in, and room for the longest text.
        guard unsafe inet_ntop(AF_INET6, bytes, &text, socklen_t(text.count)) != nil else { return "" }
        return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
