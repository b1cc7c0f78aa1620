import PageCore
import PageEngine
import PageWire
import StreamTransport
import TestSupport
import Testing

@testable import PageFerry

/// What a source must not do: the session ends with the right error, and threads that wait never see zeros.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct MaliciousSourceTests {
    private static let pages = 64
    /// One that holds data.
    private static let waitedFor = (32..<pages).first { !Content.isZero($0) }!

    /// Lets a source misbehave, and gives the destination's end.
    private func reason(
        _ kind: GuestKind = .shared, laneCount: Int = 1, script: @escaping @Sendable ([RawConnection]) -> Void
    ) throws -> SessionError? {
        let guest = try Guest(kind, pages: Self.pages)
        let layout = try RegionLayout([
            RegionDescription(name: "memory", lengthBytes: Self.pages * kind.pageSize.bytes, pageSize: kind.pageSize)
        ])
        let source = try RawSource(name: "malicious", layout: layout, laneCount: laneCount, script: script)
        let destination = try LocalDestination(guest, from: .unix(path: source.path), bulkLanes: laneCount - 1)
        let waiting = WaitingThread(guest, page: Self.waitedFor)
        let reason = try destination.end()
        #expect(waiting.sawContent == nil, "a thread stays frozen: it is never fed zeros")
        guest.release()
        waiting.join()
        #expect(waiting.sawContent == false, "what never came reads as zero once the memory is let go")
        withExtendedLifetime(source) {}
        return reason
    }

    private static func range(_ first: Int, _ count: Int, region: RegionIndex = 0) -> PageRange {
        PageRange(region: region, first: first, count: count)
    }

    @Test(arguments: [range(64, 1), range(63, 2), range(0, 1, region: 1), range(1 << 40, 1), range(0, 0)])
    func pagesOutsideTheRegions(_ range: PageRange) throws {
        let bytes = range.count * 4096
        let end = try reason { $0[0].write(FrameHeader(.pages, range: range), [UInt8](repeating: 1, count: bytes)) }
        #expect(end == .violation(.outsideRegions(range)))
    }

    @Test(arguments: [range(64, 1), range(0, 65), range(0, 4_000_000_000), range(3, 1, region: 9)])
    func zerosOutsideTheRegions(_ range: PageRange) throws {
        #expect(try reason { $0[0].write(FrameHeader(.zeroPages, range: range)) } == .violation(.outsideRegions(range)))
    }

    @Test(arguments: [100, 0, 4095, 8192]) func wrongLength(_ bytes: Int) throws {
        let range = Self.range(3, 1)
        let end = try reason { $0[0].write(FrameHeader(.pages, range: range), [UInt8](repeating: 1, count: bytes)) }
        #expect(end == .violation(.payloadLength(range, bytes: bytes)))
    }

    @Test func onePageOnTwoLanes() throws {
        for kind in [GuestKind.shared, .anonymous] {
            let end = try reason(kind, laneCount: 2) { lanes in
                // Neither ends, so both are under way whichever is read first.
                for lane in lanes {
                    lane.write(headerBytes(FrameHeader(.pages, range: Self.range(7, 1), payloadBytes: 4096)) + [1, 2, 3])
                }
            }
            #expect(end == .violation(.receivedTwice(Self.range(7, 1))))
        }
    }

    @Test func allSentWithPagesMissing() throws {
        let end = try reason(laneCount: 2) { lanes in
            lanes[0].write(FrameHeader(.guestStopped))
            lanes[0].write(FrameHeader(.pages, range: Self.range(0, 2)), [UInt8](repeating: 1, count: 8192))
            for lane in lanes { lane.write(FrameHeader(.allSent)) }
        }
        // Two are in, if their lane was read first; all others are missing.
        guard case .violation(.endedWithPagesMissing(let count))? = end else {
            Issue.record("it ended with \(String(describing: end))")
            return
        }
        #expect(count == Self.pages - 2)
    }

    @Test(arguments: [
        FrameKind.hello, .regionTable, .accept, .loaded, .resumed, .request, .credit, .removed, .allResident,
    ])
    func framesOfNoSource(_ kind: FrameKind) throws {
        #expect(try reason { $0[0].write(FrameHeader(kind)) } == .unexpectedFrame(kind))
    }

    @Test func machineStateWithoutAMachine() throws {
        #expect(try reason { $0[0].write(FrameHeader(.machineState), [1, 2, 3]) } == .unexpectedFrame(.machineState))
    }

    @Test(arguments: [FrameKind.guestStopped, .commit, .hello, .allSent]) func payloadWhereNoneBelongs(_ kind: FrameKind) throws {
        #expect(try reason { $0[0].write(FrameHeader(kind), [1]) } == .damagedFrame(.malformedPayload(kind: kind)))
    }

    @Test func unknownKind() throws {
        #expect(try reason { $0[0].write([UInt8](repeating: 0xEE, count: 64)) } == .damagedFrame(.unknownKind(0xEE)))
    }

    @Test func oversizedPages() throws {
        let end = try reason { $0[0].write(headerBytes(FrameHeader(.pages, range: Self.range(0, 64), payloadBytes: 64 << 20))) }
        #expect(end == .damagedFrame(.payloadTooLarge(kind: .pages, bytes: 64 << 20)))
    }

    @Test func failureIsPassedOn() throws {
        let end = try reason { $0[0].write(FrameHeader(.failure, argument: FailureCode.cancelled.rawValue), Array("enough".utf8)) }
        #expect(end == .peerFailed(Failure(.cancelled, "enough")))
    }

    // MARK: Lost links

    @Test(arguments: [GuestKind.shared, .anonymous]) func linkLostBetweenFrames(_ kind: GuestKind) throws {
        let end = try reason(kind, laneCount: 2) { lanes in
            lanes[0].write(FrameHeader(.guestStopped))
            // The waiting thread's request has arrived: it waits on this very link.
            while let frame = lanes[0].readFrame(), frame.header.kind != .request {}
            for lane in lanes { lane.hangUp() }
        }
        guard case .linkLost? = end else {
            Issue.record("it ended with \(String(describing: end))")
            return
        }
    }

    @Test(arguments: [GuestKind.shared, .anonymous]) func linkLostInsideAPage(_ kind: GuestKind) throws {
        let end = try reason(kind) { lanes in
            lanes[0].write(FrameHeader(.guestStopped))
            while let frame = lanes[0].readFrame(), frame.header.kind != .request {}
            // Half of the very page the thread waits for.
            lanes[0].write(
                headerBytes(FrameHeader(.pages, range: Self.range(Self.waitedFor, 1), payloadBytes: 4096))
                    + [UInt8](repeating: 7, count: 2048))
            lanes[0].hangUp()
        }
        guard case .linkLost? = end else {
            Issue.record("it ended with \(String(describing: end))")
            return
        }
    }

    @Test func oneLaneLost() throws {
        let end = try reason(laneCount: 3) { lanes in
            lanes[0].write(FrameHeader(.guestStopped))
            lanes[2].hangUp()
        }
        guard case .linkLost(let text)? = end else {
            Issue.record("it ended with \(String(describing: end))")
            return
        }
        #expect(text.contains("bulk lane 2"))
    }
}
