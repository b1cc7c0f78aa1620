import PageCore
import PageWire
import Testing

@Suite struct FrameHeaderTests {
    private func encode(_ header: FrameHeader) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xEE, count: FrameHeader.byteCount)
        var span = bytes.mutableSpan
        var raw = span.mutableBytes
        header.encode(into: &raw)
        return bytes
    }

    @Test func everyKindAndReasonSurvivesTheWire() throws {
        for kind in FrameKind.allCases {
            for reason in PageReason.allCases {
                let header = FrameHeader(
                    kind, reason: reason, region: 0xBEEF, payloadBytes: 65_536, firstPage: 1 << 40, pageCount: 0xFFFF_FFFF,
                    sequence: 0xDEAD_BEEF, argument: .max - 5)
                #expect(try FrameHeader(decoding: encode(header).span.bytes) == header)
            }
        }
    }

    /// The layout of the document comment, byte by byte: another implementation can rely on it.
    @Test func theLayoutIsAsPublished() {
        let header = FrameHeader(
            .pages, reason: .push, region: 0x0201, payloadBytes: 0x0006_0504, firstPage: 0x0807, pageCount: 9, sequence: 10,
            argument: 11)
        let expected: [UInt8] = [
            17, 2, 0x01, 0x02, 0x04, 0x05, 0x06, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0,
            9, 0, 0, 0, 10, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0,
        ]
        #expect(encode(header) == expected)
    }

    @Test func unknownTagsAreRefused() {
        var bytes = encode(FrameHeader(.ping))
        for tag in UInt8.min...UInt8.max where FrameKind(rawValue: tag) == nil {
            bytes[0] = tag
            #expect(throws: FrameError.unknownKind(tag)) { try FrameHeader(decoding: bytes.span.bytes) }
        }
        bytes = encode(FrameHeader(.pages))
        bytes[1] = 3
        #expect(throws: FrameError.unknownReason(3)) { try FrameHeader(decoding: bytes.span.bytes) }
    }

    @Test func oversizedPayloadsAreRefused() throws {
        for kind in FrameKind.allCases {
            let most = kind == .pages ? FrameLimits.mostPageBytes : FrameLimits.mostControlBytes
            #expect(try FrameHeader(decoding: encode(FrameHeader(kind, payloadBytes: most)).span.bytes).payloadBytes == most)
            #expect(throws: FrameError.payloadTooLarge(kind: kind, bytes: most + 1)) {
                try FrameHeader(decoding: encode(FrameHeader(kind, payloadBytes: most + 1)).span.bytes)
            }
        }
    }

    @Test func absurdPagesAreRefused() {
        var bytes = encode(FrameHeader(.request))
        for index in 8..<16 { bytes[index] = 0xFF }
        #expect(throws: FrameError.rangeOutOfBounds) { try FrameHeader(decoding: bytes.span.bytes) }
    }

    /// Whatever 32 bytes say, decoding answers or throws, and what it answers encodes back to the same meaning.
    @Test func randomBytesNeverTrap() {
        var random = SeededRandom(seed: 3)
        for _ in 0..<20_000 {
            var bytes = (0..<FrameHeader.byteCount).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            bytes[0] = UInt8(random.next(below: 32))
            bytes[1] = UInt8(random.next(below: 4))
            if random.chance(percent: 70) { bytes[6] = 0; bytes[7] = 0; bytes[15] = 0; bytes[14] = 0 }
            guard let header = try? FrameHeader(decoding: bytes.span.bytes) else { continue }
            #expect((try? FrameHeader(decoding: encode(header).span.bytes)) == header)
        }
    }
}
