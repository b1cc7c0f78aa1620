import PageCore
import PageWire
import TestSupport
import Testing

@testable import PageFerry

/// A channel whose peer is a list of frames.
private struct FakeChannel: SetupChannel {
    var peerDescription: String { "the test" }
    var incoming: [(FrameHeader, [UInt8])] = []
    var outgoing: [(header: FrameHeader, payload: [UInt8])] = []

    mutating func send(_ header: FrameHeader, payload: [UInt8], timeoutNanoseconds: UInt64) throws(SessionError) {
        outgoing.append((header, payload))
    }

    mutating func receive(timeoutNanoseconds: UInt64) throws(SessionError) -> (header: FrameHeader, payload: [UInt8]) {
        guard !incoming.isEmpty else { throw .timedOut("nothing more is scripted") }
        let (header, payload) = incoming.removeFirst()
        return (header, payload)
    }

    mutating func say(_ kind: FrameKind, _ payload: [UInt8] = []) {
        incoming.append((FrameHeader(kind, payloadBytes: payload.count), payload))
    }

    /// The code of the failure it was told last.
    var refusal: FailureCode? {
        guard let last = outgoing.last, last.header.kind == .failure else { return nil }
        return Failure(header: last.header, payload: last.payload).code
    }
}

@Suite(.leavesNothing) struct HandshakeTests {
    private let session = SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)

    private func hello(
        versions: ClosedRange<UInt16> = Hello.supportedVersions, role: SessionRole, lane: UInt8 = 0, lanes: UInt8 = 2,
        features: ProtocolFeatures = [], session: SessionIdentity? = nil
    ) -> [UInt8] {
        Hello(versions: versions, role: role, lane: lane, laneCount: lanes, features: features, session: session ?? self.session).encoded()
    }

    private func layout(_ sizes: [Int], pageSize: PageSize = .fourKiB) throws -> RegionLayout {
        try RegionLayout(sizes.enumerated().map { try RegionDescription(name: "r\($0)", lengthBytes: $1, pageSize: pageSize) })
    }

    private func error(_ body: () throws(SessionError) -> Void) -> SessionError? {
        do throws(SessionError) { try body() } catch { return error }
        return nil
    }

    private func greet(_ channel: inout FakeChannel) throws(SessionError) { _ = try SourceHandshake.greet(&channel, timeoutNanoseconds: 1) }

    private func open(_ channel: inout FakeChannel) throws(SessionError) -> SessionOffer {
        try DestinationHandshake.open(&channel, lanesWanted: 3, features: .machineState, timeoutNanoseconds: 1)
    }

    @Test func wholeHandshakeOfADestination() throws {
        var channel = FakeChannel()
        let offered = try layout([1 << 20, 8 << 20])
        channel.say(.hello, hello(role: .source, features: ProtocolFeatures(rawValue: 0xFFFD)))
        channel.say(.regionTable, RegionTable.encode(offered))
        let offer = try open(&channel)
        #expect(offer.laneCount == 2)
        #expect(offer.features == .machineState, "features nobody asked for are not used")
        #expect(offer.layout.totalBytes == 9 << 20)
        #expect(offer.session.matches(session))
        #expect(channel.outgoing.map(\.header.kind) == [.hello])
    }

    @Test func wrongRole() {
        var source = FakeChannel()
        source.say(.hello, hello(role: .source))
        #expect(error { () throws(SessionError) in try greet(&source) } == .wrongRole(peer: "the test"))
        #expect(source.refusal == .wrongRole)
        var destination = FakeChannel()
        destination.say(.hello, hello(role: .destination))
        #expect(error { () throws(SessionError) in _ = try open(&destination) } == .wrongRole(peer: "the test"))
        #expect(destination.refusal == .wrongRole)
    }

    @Test(arguments: [9...9, (Hello.supportedVersions.upperBound + 1)...65535, 0...1] as [ClosedRange<UInt16>]) func wrongVersion(
        _ versions: ClosedRange<UInt16>
    ) {
        var source = FakeChannel()
        source.say(.hello, hello(versions: versions, role: .destination))
        let expected = SessionError.versionMismatch(ours: Hello.supportedVersions, theirs: versions)
        #expect(error { () throws(SessionError) in try greet(&source) } == expected)
        #expect(source.refusal == .versionMismatch)
        var destination = FakeChannel()
        destination.say(.hello, hello(versions: versions, role: .source))
        #expect(error { () throws(SessionError) in _ = try open(&destination) } == expected)
        #expect(destination.refusal == .versionMismatch)
    }

    @Test func newerPeerThatStillSpeaksOurs() throws {
        var source = FakeChannel()
        source.say(.hello, hello(versions: 1...9, role: .destination))
        try greet(&source)
    }

    @Test func firstFrameIsNoHello() {
        var source = FakeChannel()
        source.say(.ping)
        #expect(error { () throws(SessionError) in try greet(&source) } == .notPageFerry(peer: "the test"))
        var magic = FakeChannel()
        magic.say(.hello, [UInt8](repeating: 0, count: 48))
        #expect(error { () throws(SessionError) in try greet(&magic) } == .notPageFerry(peer: "the test"))
    }

    @Test func moreLanesThanWanted() {
        var channel = FakeChannel()
        channel.say(.hello, hello(role: .source, lanes: 4))
        #expect(error { () throws(SessionError) in _ = try open(&channel) } == .unexpectedFrame(.hello))
    }

    @Test func joiningNeedsTheSecretAndAFreeLane() throws {
        let offer = SessionOffer(session: session, laneCount: 3, features: [], layout: try layout([1 << 20]))
        func admit(_ identity: SessionIdentity, lane: UInt8) -> (SessionError?, FakeChannel) {
            var channel = FakeChannel()
            let hello = Hello(role: .destination, lane: lane, laneCount: 3, features: [], session: identity)
            let failure = error { () throws(SessionError) in
                try SourceHandshake.admit(&channel, hello, to: offer, freeLanes: [2], timeoutNanoseconds: 1)
            }
            return (failure, channel)
        }
        let (none, accepted) = admit(session, lane: 2)
        #expect(none == nil && accepted.outgoing.map(\.header.kind) == [.accept])
        let strangers = [
            SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 4), SessionIdentity(identifier: 1, secretLow: 3, secretHigh: 3),
            SessionIdentity(identifier: 2, secretLow: 2, secretHigh: 3), .unassigned,
        ]
        for stranger in strangers {
            let (failure, channel) = admit(stranger, lane: 2)
            #expect(failure == .unknownSession && channel.refusal == .unknownSession)
        }
        #expect(admit(session, lane: 1).0 == .unknownSession, "a lane that is taken")
        #expect(admit(session, lane: 3).0 == .unknownSession, "a lane that was never granted")
    }

    @Test func secretsDiffer() {
        let (one, other) = (SourceHandshake.newSession(), SourceHandshake.newSession())
        #expect(!one.matches(other) && one.identifier != 0 && one.secretLow != other.secretLow && one.secretHigh != other.secretHigh)
    }

    @Test func regionsThatDiffer() throws {
        func text(_ offered: RegionLayout, _ here: RegionLayout) -> String? {
            error { () throws(SessionError) in try DestinationHandshake.match(offered, with: here) }?.description
        }
        let one = try layout([64 << 20])
        #expect(text(one, try layout([64 << 20])) == nil)
        let sizes = try #require(text(one, try layout([128 << 20])))
        #expect(sizes.contains("'r0'") && sizes.contains("64 MiB") && sizes.contains("128 MiB") && sizes.contains("same memory size"))
        let counts = try #require(text(one, try layout([32 << 20, 32 << 20])))
        #expect(counts.contains("1 memory regions ('r0')") && counts.contains("2 ('r0', 'r1')") && counts.contains("same memory backends"))
        let pages = try #require(text(one, try layout([64 << 20], pageSize: .twoMiB)))
        #expect(pages.contains("4 KiB pages") && pages.contains("2048 KiB pages") && pages.contains("same kind of memory backend"))
    }

    // MARK: What the source holds

    /// A destination's channel on which a source says which pages of 4 hold something.
    private func telling(_ payloads: [[UInt8]], _ layout: RegionLayout) -> FakeChannel {
        var channel = FakeChannel()
        channel.say(.hello, hello(role: .source, features: .contentMap))
        channel.say(.regionTable, RegionTable.encode(layout))
        for payload in payloads { channel.say(.residentPages, payload) }
        return channel
    }

    @Test func whatTheSourceHoldsIsTold() throws {
        let layout = try layout([1 << 20, 8 << 20])
        var pages = PageBitmap(pageCount: layout.totalPages)
        pages.insert(3..<200)
        pages.insert(255..<257)
        var source = FakeChannel()
        source.say(.accept)
        let offer = SessionOffer(session: session, laneCount: 2, features: .contentMap, layout: layout, content: ResidentMap(pages))
        try SourceHandshake.offer(&source, offer, timeoutNanoseconds: 1)
        #expect(source.outgoing.map(\.header.kind) == [.hello, .regionTable, .residentPages])
        var destination = FakeChannel()
        destination.incoming = source.outgoing.map { ($0.header, $0.payload) }
        let told = try open(&destination)
        #expect(told.features == [], "it concerns nobody behind the handshake")
        let content = try #require(told.content)
        #expect((0..<layout.totalPages).filter { content.pages.contains($0) } == Array(3..<200) + [255, 256])
        // The destination has asked for it.
        #expect(try Hello(decoding: destination.outgoing[0].payload).features == [.machineState, .contentMap])
    }

    @Test func whoLiesAboutWhatItHoldsIsRefused() throws {
        let layout = try layout([1 << 20])
        let told = ResidentPages.encode(PageBitmap(pageCount: layout.totalPages))
        var early = telling([], layout)
        early.say(.accept)
        #expect(error { () throws(SessionError) in _ = try open(&early) } == .unexpectedFrame(.accept))
        var short = telling([Array(told[0].dropLast())], layout)
        #expect(error { () throws(SessionError) in _ = try open(&short) } == .damagedFrame(.malformedPayload(kind: .residentPages)))
        #expect(short.refusal == .protocolViolation)
        // More pages than are told of: nothing of that size is kept for a source that is not known to fit.
        var huge = telling(told, try self.layout([(ResidentPages.mostToldPages + 1) << 12]))
        #expect(error { () throws(SessionError) in _ = try open(&huge) } == .unexpectedFrame(.residentPages))
    }

    @Test func lyingRegionTable() throws {
        var channel = FakeChannel()
        channel.say(.hello, hello(role: .source))
        channel.say(.regionTable, RegionTable.encode(try layout([1 << 20])).dropLast() + [])
        #expect(error { () throws(SessionError) in _ = try open(&channel) } == .damagedFrame(.malformedPayload(kind: .regionTable)))
        #expect(channel.refusal == .protocolViolation)
    }
}
