import PageCore
import PageWire
import Testing

@Suite struct MessageTests {
    private let hello = Hello(
        role: .destination, lane: 3, laneCount: 4, features: [.machineState],
        session: SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3))

    @Test func helloSurvivesTheWire() throws {
        let bytes = hello.encoded()
        #expect(bytes.count == 48)
        #expect(try Hello(decoding: bytes) == hello)
    }

    /// Cut short or too long at every byte, and with every field out of its bounds.
    @Test func damagedHellosAreRefused() {
        let bytes = hello.encoded()
        for length in 0..<bytes.count {
            #expect(throws: FrameError.malformedPayload(kind: .hello)) {
                try Hello(decoding: Array(bytes[..<length]))
            }
        }
        #expect(throws: FrameError.self) { try Hello(decoding: (bytes + [0])) }
        for (offset, value) in [(0, 0), (8, 9), (12, 0), (12, 3), (13, 16), (14, 0), (14, 17)] as [(Int, UInt8)] {
            var damaged = bytes
            damaged[offset] = value
            #expect(throws: FrameError.self) { try Hello(decoding: damaged) }
        }
    }

    @Test func theNewestCommonVersionIsChosen() {
        var other = hello
        other.versions = 2...5
        #expect(other.commonVersion(with: 1...1) == nil)
        #expect(other.commonVersion(with: 1...3) == 3)
        #expect(other.commonVersion(with: 4...9) == 5)
        #expect(other.commonVersion(with: 6...9) == nil)
    }

    @Test func sessionsMatchOnlyWithTheirSecret() {
        let session = hello.session
        #expect(session.matches(session))
        #expect(!session.matches(SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 4)))
        #expect(!session.matches(SessionIdentity(identifier: 1, secretLow: 0, secretHigh: 3)))
        #expect(!session.matches(SessionIdentity(identifier: 2, secretLow: 2, secretHigh: 3)))
    }

    @Test func regionTablesSurviveTheWire() throws {
        let layout = try RegionLayout([
            RegionDescription(name: "ram", lengthBytes: 512 << 20, pageSize: .fourKiB),
            RegionDescription(name: "größe", lengthBytes: 4 << 20, pageSize: .twoMiB),
            RegionDescription(name: "", lengthBytes: 4096, pageSize: .fourKiB),
        ])
        let bytes = RegionTable.encode(layout)
        #expect(try RegionTable.decode(bytes) == layout)
        for length in 0..<bytes.count {
            #expect(throws: FrameError.self) { try RegionTable.decode(Array(bytes[..<length])) }
        }
    }

    /// A peer that lies: unaligned or endless regions, page sizes that do not exist, names that are no text, too many.
    @Test func lyingRegionTablesAreRefused() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 8192, pageSize: .fourKiB)])
        let bytes = RegionTable.encode(layout)
        for (offset, value) in [(0, 0), (0, 2), (1, 2), (2, 1), (9, 0x80), (9, 0xFF), (10, 13), (11, 4), (12, 0xFF)] as [(Int, UInt8)] {
            var damaged = bytes
            damaged[offset] = value
            #expect(throws: FrameError.malformedPayload(kind: .regionTable)) { try RegionTable.decode(damaged) }
        }
    }

    @Test func failuresArePrintableAndBounded() {
        let failure = Failure(.regionMismatch, "bad\u{1B}[2J news\n" + String(repeating: "ä", count: 2000))
        #expect(!failure.text.unicodeScalars.contains { $0.value < 32 })
        #expect(failure.text.utf8.count <= Failure.longestTextBytes)
        let (header, payload) = failure.encoded()
        #expect(Failure(header: header, payload: payload) == failure)
        let unknown = Failure(header: FrameHeader(.failure, argument: 999), payload: [0xFF, 0x41])
        #expect(unknown.code == .unspecified)
        #expect(unknown.text.hasSuffix("A"))
    }
}
