import PageCore
import PageEngine
import PageWire
import TestSupport
import Testing

@testable import PageFerry

/// What a destination must not do: its session ends with the right error, it is told why (unless its very frames are
/// damaged: then the lane is closed at once), and the source serves on.
@Suite(
    .leavesNothing, .serialized, .enabled(if: sessionsArePossible)
)
struct MaliciousDestinationTests {
    private static let pages = 256

    private func expectEnd(
        _ expected: SessionError, startsAtOnce: Bool = true, isTold: Bool = true, location: SourceLocation = #_sourceLocation,
        script: (RawConnection) -> Void
    ) throws {
        let name = "victim.\(UInt32.random(in: 0 ... .max))"
        let source = try LocalSource(try makeImage(pages: Self.pages), name: name, startsAtOnce: startsAtOnce)
        defer { source.stop() }
        do {
            let destination: RawDestination
            do { destination = try RawDestination(path: socketPath(name)) } catch {
                Issue.record("the source says \(String(describing: source.nextEnd()))", sourceLocation: location)
                return
            }
            script(destination.lanes[0])
            #expect(try #require(source.nextEnd()).reason == expected, sourceLocation: location)
            var last: (header: FrameHeader, payload: [UInt8])?
            while let frame = destination.lanes[0].readFrame() { last = frame }
            if isTold { #expect(last?.header.kind == .failure, "it is told why", sourceLocation: location) }
        }
        // The next one gets every page.
        guard startsAtOnce else { return }
        let guest = try Guest(.shared, pages: Self.pages)
        #expect(try LocalDestination(guest, from: source.address).end() == nil, sourceLocation: location)
        #expect((0..<Self.pages).allSatisfy { guest.words.isRight($0) }, sourceLocation: location)
    }

    private static func request(_ first: Int, _ count: Int, demanded: UInt64, region: RegionIndex = 0) -> FrameHeader {
        var header = FrameHeader(.request, range: PageRange(region: region, first: first, count: count))
        header.argument = demanded
        return header
    }

    @Test(arguments: [
        request(256, 1, demanded: 256), request(250, 10, demanded: 250), request(0, 4, demanded: 4), request(4, 4, demanded: 3),
        request(0, 1, demanded: 0, region: 3), request(0, 0, demanded: 0), request(0, 4, demanded: .max),
    ])
    func requestOutsideTheRegions(_ request: FrameHeader) throws {
        try expectEnd(.violation(.outsideRegions(request.range))) { $0.write(request) }
    }

    @Test func removalOutsideTheRegions() throws {
        let range = PageRange(region: 0, first: 255, count: 2)
        try expectEnd(.violation(.outsideRegions(range))) { $0.write(FrameHeader(.removed, range: range)) }
    }

    @Test func boundlessCredit() throws {
        try expectEnd(.violation(.creditOverflow)) { $0.write(FrameHeader(.credit, argument: .max)) }
    }

    @Test(arguments: [FrameKind.hello, .regionTable, .accept, .guestStopped, .commit, .zeroPages, .allSent])
    func framesOfNoDestination(_ kind: FrameKind) throws {
        try expectEnd(.unexpectedFrame(kind)) { $0.write(FrameHeader(kind)) }
    }

    /// The source lets its memory go for this frame: it is believed only when it can be true.
    @Test func allResidentBeforeAnythingWasSent() throws {
        try expectEnd(.unexpectedFrame(.allResident), startsAtOnce: false) { $0.write(FrameHeader(.allResident)) }
    }

    @Test func pagesFromTheWrongSide() throws {
        try expectEnd(.damagedFrame(.malformedPayload(kind: .pages)), isTold: false) { connection in
            connection.write(FrameHeader(.pages, range: PageRange(region: 0, first: 0, count: 1)), [UInt8](repeating: 1, count: 4096))
        }
    }

    @Test func machineStateWithoutAMachine() throws {
        try expectEnd(.unexpectedFrame(.machineState)) { $0.write(FrameHeader(.machineState), [1]) }
    }

    @Test func garbage() throws {
        try expectEnd(.damagedFrame(.unknownKind(0xEE)), isTold: false) { $0.write([UInt8](repeating: 0xEE, count: 64)) }
    }

    @Test func goneInTheMiddle() throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "left")
        defer { source.stop() }
        do {
            let destination = try RawDestination(path: socketPath("left"), laneCount: 2)
            for lane in destination.lanes { lane.hangUp() }
        }
        guard case .linkLost? = try #require(source.nextEnd()).reason else {
            Issue.record("the end of a destination is a lost link")
            return
        }
    }
}
