import CPageFerry
import Glibc
import HostMemory
import TestSupport
import Testing
import Verbs

/// `transport` of the library's options; over a device of this host where `PAGEFERRY_RDMA` names one.
@Suite(.leavesNothing, .serialized) struct LibraryTransportTests {
    /// The address of the device that `PAGEFERRY_RDMA` names.
    private static let address: String? = {
        guard let name = getenv("PAGEFERRY_RDMA").map({ String(cString: $0) }), !name.isEmpty else {
            print("skipped: the library over RDMA; PAGEFERRY_RDMA names no device (`make test-rdma` brings one)")
            return nil
        }
        return try? DeviceDescription.all().first { $0.name == name }?.addresses.first
    }()

    private func text() -> String {
        var buffer = [CChar](repeating: 0, count: 1024)
        _ = pageferry_error_text(&buffer, buffer.count)
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private func openSource(
        _ listen: String, _ transport: pageferry_transport, _ memories: LibraryMemories, keyPath: String? = nil, insecure: Int32 = 0
    ) -> Int64 {
        listen.withCString { listen in
            (keyPath ?? "").withCString { key in
                var security = pageferry_security()
                security.insecure = insecure
                if keyPath != nil { security.pre_shared_key_path = key }
                return withUnsafePointer(to: &security) { security in
                    memories.openSource([]) { options in
                        options.listen = listen
                        options.security = security
                        options.transport = Int32(transport.rawValue)
                    }
                }
            }
        }
    }

    @Test(.enabled(if: canRegisterMemory)) func rdmaCarriesNoEncryption() throws {
        let memories = try LibraryMemories()
        let files = try TestCredentials()
        for transport in [PAGEFERRY_TRANSPORT_RDMA, PAGEFERRY_TRANSPORT_AUTO] {
            let answer = openSource("127.0.0.1:0", transport, memories, keyPath: try files.key())
            #expect(answer == Int64(PAGEFERRY_ERROR_ARGUMENT.rawValue) && text().contains("no encryption"), "\(text())")
        }
    }

    @Test(.enabled(if: canRegisterMemory && Self.address == nil)) func withoutADeviceAutoMeansStreams() throws {
        let memories = try LibraryMemories()
        let answer = openSource("127.0.0.1:0", PAGEFERRY_TRANSPORT_RDMA, memories)
        #expect(answer == Int64(PAGEFERRY_ERROR_CONNECT.rawValue), "\(text())")
        let source = openSource("127.0.0.1:0", PAGEFERRY_TRANSPORT_AUTO, memories)
        try #require(source > 0, "\(text())")
        try page(from: source, PAGEFERRY_TRANSPORT_AUTO, memories)
    }

    @Test(.enabled(if: canRegisterMemory && Self.address != nil)) func pagesComeOverRDMA() throws {
        let memories = try LibraryMemories()
        let address = "\(try #require(Self.address)):0"
        let refused = openSource(address, PAGEFERRY_TRANSPORT_RDMA, memories)
        #expect(refused == Int64(PAGEFERRY_ERROR_TRUST.rawValue) && text().contains("RDMA carries no encryption"), "\(text())")
        let source = openSource(address, PAGEFERRY_TRANSPORT_RDMA, memories, insecure: 1)
        try #require(source > 0, "\(text())")
        try page(from: source, PAGEFERRY_TRANSPORT_RDMA, memories)
    }

    private func page(from source: Int64, _ transport: pageferry_transport, _ memories: LibraryMemories) throws {
        var address = [CChar](repeating: 0, count: 128)
        #expect(pageferry_source_address(source, &address, address.count) > 10)
        var security = pageferry_security()
        security.insecure = 1
        let destination = withUnsafePointer(to: &security) { security in
            address.withUnsafeBufferPointer { address in
                memories.openDestination([]) { options in
                    options.transport = Int32(transport.rawValue)
                    options.bulk_lanes = 1
                    options.connect = address.baseAddress
                    options.security = security
                }
            }
        }
        try #require(destination > 0, "\(text())")
        for page in 0..<256 { #expect(memories.isRight(page: page)) }
        #expect(pageferry_close(destination) == 0 && pageferry_close(source) == 0)
    }
}
