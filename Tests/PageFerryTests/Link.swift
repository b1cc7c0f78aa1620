import Glibc
import StreamTransport
import Verbs

@testable import PageFerry

/// What sessions of the tests run over. Every session test runs over all that this host has.
enum Link: String, Sendable, CaseIterable, CustomStringConvertible {
    case unix
    /// RDMA, the push read by the destination.
    case rdmaRead
    /// RDMA, the push written by the source.
    case rdmaWrite

    /// RDMA where `PAGEFERRY_RDMA` names a device, else unix sockets; says so.
    static let all: [Link] = rdmaAddress == nil ? [.unix] : rdma

    static let rdma: [Link] = [.rdmaRead, .rdmaWrite]

    /// The address of the device that `PAGEFERRY_RDMA` names.
    static let rdmaAddress: String? = {
        guard let name = getenv("PAGEFERRY_RDMA").map({ String(cString: $0) }), !name.isEmpty else {
            print("skipped: sessions over RDMA; PAGEFERRY_RDMA names no device (`make test-rdma` brings one)")
            return nil
        }
        return try? DeviceDescription.all().first { $0.name == name }?.addresses.first
    }()

    var description: String { rawValue }
    var transport: TransportChoice { self == .unix ? .tcp : .rdma }
    var push: PushMethod { self == .rdmaWrite ? .write : .read }

    func address(_ name: String) -> StreamAddress {
        self == .unix ? .unix(path: socketPath(name)) : .tcp(host: Self.rdmaAddress ?? "", port: 0)
    }
}
