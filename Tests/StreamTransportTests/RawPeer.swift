import Glibc
import PageTransport
import PageWire
import Testing

@testable import StreamTransport

/// One transport whose other end is a bare socket in the test's hands: for bytes no honest peer sends.
struct RawPeer: ~Copyable {
    var transport: StreamTransport
    private(set) var descriptor: Int32

    init(_ link: TransportFactory.Link, sizes: TransportSizes = TransportSizes()) throws {
        let (one, other) = try connectedDescriptors(link)
        var lanes = StreamLanes()
        lanes.append(adopting: one)
        let made = try StreamTransport(lanes: lanes, configuration: sizes.streamConfiguration)
        transport = made
        descriptor = other
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
    }

    func write(_ bytes: ArraySlice<UInt8>) {
        var rest = bytes
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { Issue.record("the raw peer cannot write"); return }
            rest = rest.dropFirst(count)
        }
    }

    mutating func hangUp() {
        close(descriptor)
        descriptor = -1
    }
}

/// The bytes of a frame, its payload filled with `fill`.
func frameBytes(_ header: FrameHeader, fill: UInt8 = 0xAB) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
    bytes.withUnsafeMutableBytes { raw in
        var span = raw.mutableBytes
        header.encode(into: &span)
    }
    return bytes + [UInt8](repeating: fill, count: header.payloadBytes)
}
