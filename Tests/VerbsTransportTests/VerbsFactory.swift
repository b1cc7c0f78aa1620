import Glibc
import PageTransport
import PageWire
import TestSupport
import Testing
import Verbs

@testable import VerbsTransport

typealias TransportUnderTest = VerbsTransport

/// The RDMA device the tests may use: `PAGEFERRY_RDMA` names it. Without one they are skipped.
let testAddress: String? = {
    guard let name = getenv("PAGEFERRY_RDMA").map({ String(cString: $0) }), !name.isEmpty else {
        print("skipped: RDMA over VerbsTransport; PAGEFERRY_RDMA names no device (`make test-rdma` brings one)")
        return nil
    }
    guard let device = try? DeviceDescription.all().first(where: { $0.name == name }), let address = device.addresses.first else {
        print("skipped: RDMA over VerbsTransport; there is no device \(name) with an IPv4 address")
        return nil
    }
    return address
}()

/// Makes connected pairs of the transport under test.
struct TransportFactory: Sendable, CustomTestStringConvertible {
    var testDescription: String { "rdma" }

    static let all = [TransportFactory()]

    func makePair(lanes: Int, sizes: TransportSizes) throws -> TransportPair<VerbsTransport> {
        let configuration = VerbsConfiguration(queueFrames: sizes.queueFrames)
        let (left, right) = try connectedLanes(lanes, configuration)
        return TransportPair(
            left: try VerbsTransport(lanes: left, configuration: configuration),
            right: try VerbsTransport(lanes: right, configuration: configuration))
    }
}

/// Connections through the library's own listener and connector, in one domain each side.
func connectedLanes(_ count: Int, _ configuration: VerbsConfiguration = VerbsConfiguration()) throws -> (
    [VerbsConnection], [VerbsConnection]
) {
    var listener = try VerbsListener(on: VerbsAddress(host: testAddress!, port: 0))
    let address = listener.address
    var left: [VerbsConnection] = []
    var right: [VerbsConnection] = []
    for _ in 0..<count {
        let connector = try Connector(to: address, domain: left.first?.domain, configuration)
        let request = try #require(try listener.nextRequest(timeoutNanoseconds: seconds(10), configuration: configuration))
        try request.accept(timeoutNanoseconds: seconds(10))
        left.append(try connector.join())
        right.append(request)
    }
    return (left, right)
}

/// Connects on a thread of its own: the listener must answer meanwhile.
final class Connector: @unchecked Sendable {
    private var outcome: Result<VerbsConnection, VerbsError>?
    private var thread: Thread?

    init(to address: VerbsAddress, domain: ProtectionDomain?, _ configuration: VerbsConfiguration) throws {
        thread = try Thread { [self] in
            do throws(VerbsError) {
                outcome = .success(
                    try VerbsConnection.connect(
                        to: address, domain: domain, timeoutNanoseconds: seconds(10), configuration: configuration))
            } catch { outcome = .failure(error) }
        }
    }

    func join() throws -> VerbsConnection {
        thread?.join()
        return try outcome!.get()
    }
}

/// Every test of this module, one after the other: some count the process's descriptors.
@Suite(.leavesNothing, .serialized, .enabled(if: testAddress != nil)) struct TransportTests {}
