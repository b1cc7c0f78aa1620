import Glibc
import PageTransport
import PageWire
import Testing

@testable import StreamTransport

/// Peers that stop anywhere, write byte by byte, lie or vanish.
extension TransportTests {
    static let links: [TransportFactory.Link] = [.tcp, .unix]

    /// Three frames: 40 bytes of payload, none, 100 bytes.
    static var threeFrames: (bytes: [UInt8], ends: [Int]) {
        let one = frameBytes(FrameHeader(.pages, payloadBytes: 40, firstPage: 1, argument: 0), fill: 0x11)
        let two = frameBytes(FrameHeader(.ping, argument: 2))
        let three = frameBytes(FrameHeader(.pages, payloadBytes: 100, firstPage: 3, argument: 40), fill: 0x33)
        return (one + two + three, [one.count, one.count + two.count, one.count + two.count + three.count])
    }

    @Test(arguments: links, [32, 77, 8192])
    func framesMayBeSplitAtEveryByte(link: TransportFactory.Link, readAheadBytes: Int) throws {
        let (bytes, ends) = Self.threeFrames
        for split in 1..<bytes.count {
            var peer = try RawPeer(link, sizes: TransportSizes(readAheadBytes: readAheadBytes))
            var recorder = Recorder(arenaBytes: 140)
            peer.write(bytes[..<split])
            let before = ends.filter { $0 <= split }.count
            let first = pump(&peer.transport, &recorder) { $0.arrived.count >= before }
            #expect(first && recorder.arrived.count == before)
            peer.write(bytes[split...])
            let all = pump(&peer.transport, &recorder) { $0.arrived.count == 3 }
            #expect(all)
            #expect(recorder.arena!.slice(0, 40).allSatisfy { $0 == 0x11 })
            #expect(recorder.arena!.slice(40, 100).allSatisfy { $0 == 0x33 })
        }
    }

    @Test(arguments: links)
    func framesMayComeByteByByte(link: TransportFactory.Link) throws {
        let (bytes, ends) = Self.threeFrames
        var peer = try RawPeer(link)
        var recorder = Recorder(arenaBytes: 140)
        for index in bytes.indices {
            peer.write(bytes[index...index])
            peer.transport.poll(&recorder, wait: WaitPolicy(timeoutNanoseconds: 1_000_000))
            #expect(recorder.arrived.count <= ends.filter { $0 <= index + 1 }.count, "no frame arrives before its last byte")
        }
        let all = pump(&peer.transport, &recorder) { $0.arrived.count == 3 }
        #expect(all)
        #expect(recorder.arrived.map(\.header.kind) == [.pages, .ping, .pages])
        #expect(recorder.arena!.slice(40, 100).allSatisfy { $0 == 0x33 })
    }

    @Test(arguments: links, [32, 8192])
    func truncationIsToldFromAnOrderlyEnd(link: TransportFactory.Link, readAheadBytes: Int) throws {
        let (bytes, ends) = Self.threeFrames
        for cut in 0...bytes.count {
            var peer = try RawPeer(link, sizes: TransportSizes(readAheadBytes: readAheadBytes))
            var recorder = Recorder(arenaBytes: 140)
            peer.write(bytes[..<cut])
            peer.hangUp()
            let closed = pump(&peer.transport, &recorder) { !$0.closures.isEmpty }
            #expect(closed)
            #expect(recorder.reason(.urgent) == (cut == 0 || ends.contains(cut) ? .endOfStream : .truncated), "cut at \(cut)")
            #expect(recorder.arrived.count == ends.filter { $0 <= cut }.count)
            let accepted = peer.transport.submit(FrameHeader(.ping), copying: nil, lane: .urgent)
            #expect(accepted == false, "a closed lane takes nothing")
        }
    }

    @Test(arguments: links)
    func whatIsNoFrameClosesTheLane(link: TransportFactory.Link) throws {
        var unknownKind = frameBytes(FrameHeader(.ping))
        unknownKind[0] = 200
        var unknownReason = frameBytes(FrameHeader(.ping))
        unknownReason[1] = 99
        var oversizedPages = frameBytes(FrameHeader(.pages))
        oversizedPages.replaceSubrange(4..<8, with: [0xFF, 0xFF, 0xFF, 0xFF])
        var oversizedControl = frameBytes(FrameHeader(.hello))
        oversizedControl.replaceSubrange(4..<8, with: [1, 0, 1, 0])
        let cases: [([UInt8], FrameError)] = [
            (unknownKind, .unknownKind(200)), (unknownReason, .unknownReason(99)),
            (oversizedPages, .payloadTooLarge(kind: .pages, bytes: Int(UInt32.max))),
            (oversizedControl, .payloadTooLarge(kind: .hello, bytes: 65537)),
        ]
        for (bytes, error) in cases {
            var peer = try RawPeer(link, sizes: TransportSizes(readAheadBytes: 8192))
            var recorder = Recorder()
            peer.write((frameBytes(FrameHeader(.ping)) + bytes + frameBytes(FrameHeader(.pong)))[...])
            let closed = pump(&peer.transport, &recorder) { !$0.closures.isEmpty }
            #expect(closed)
            #expect(recorder.reason(.urgent) == .refused(error))
            #expect(recorder.arrived.map(\.header.kind) == [.ping], "nothing behind the damage is handed on")
            #expect(recorder.closures.count == 1)
        }
    }

    @Test(arguments: links)
    func theHandlerMayRefuse(link: TransportFactory.Link) throws {
        var peer = try RawPeer(link)
        var recorder = Recorder()
        recorder.placement = .refuse(.rangeOutOfBounds)
        peer.write(frameBytes(FrameHeader(.pages, payloadBytes: 4096))[...])
        let closed = pump(&peer.transport, &recorder) { !$0.closures.isEmpty }
        #expect(closed)
        #expect(recorder.reason(.urgent) == .refused(.rangeOutOfBounds))
        #expect(recorder.placed.count == 1)
        #expect(recorder.arrived.isEmpty)
    }

    @Test(arguments: links, [Int.max, 4096])
    func aPeerThatStopsReadingHoldsNothingElse(link: TransportFactory.Link, zeroCopyThresholdBytes: Int) throws {
        var left = StreamLanes()
        var right: [Int32] = []
        for _ in 0..<2 {
            let (one, other) = try connectedDescriptors(link)
            left.append(adopting: one)
            right.append(other)
        }
        defer { right.forEach { close($0) } }
        var configuration = TransportSizes(queueFrames: 16, zeroCopyThresholdBytes: zeroCopyThresholdBytes).streamConfiguration
        configuration.closeTimeoutNanoseconds = 20_000_000
        var transport = try StreamTransport(lanes: left, configuration: configuration)
        let memory = Arena(2 << 20)
        var recorder = Recorder()
        var count = 0
        // Until the peer's window and every buffer are full: the queue stays full over many polls.
        var refusals = 0
        while refusals < 200 {
            let header = FrameHeader(.pages, payloadBytes: 2 << 20, firstPage: count)
            if transport.submit(header, payload: memory.slice(0, 2 << 20), token: UInt64(count), lane: LaneIndex(1)) {
                count += 1
                refusals = 0
            } else {
                refusals += 1
            }
            transport.poll(&recorder, wait: WaitPolicy(timeoutNanoseconds: 100_000))
        }
        #expect(transport.freeSlots(LaneIndex(1)) == 0)
        #expect(transport.pendingBytes(LaneIndex(1)) > 0)
        // The urgent lane is not held up.
        let accepted = transport.submit(FrameHeader(.ping, argument: 77), copying: nil, lane: .urgent)
        #expect(accepted)
        transport.poll(&recorder, wait: .immediate)
        var bytes = [UInt8](repeating: 0, count: 32)
        let received = recv(right[0], &bytes, 32, Int32(MSG_WAITALL))
        #expect(received == 32)
        #expect(bytes == frameBytes(FrameHeader(.ping, argument: 77)))
        transport.close()  // bounded, although the peer never reads
        #expect(recorder.sent[LaneIndex(1), default: []] == (0..<recorder.sent[LaneIndex(1), default: []].count).map { UInt64($0) })
    }

    @Test(arguments: links)
    func aPeerThatVanishesClosesTheLaneOnce(link: TransportFactory.Link) throws {
        var peer = try RawPeer(link)
        var recorder = Recorder()
        let memory = Arena(2 << 20)
        for index in 0..<32 {
            let accepted = peer.transport.submit(
                FrameHeader(.pages, payloadBytes: 2 << 20), payload: memory.slice(0, 2 << 20), token: UInt64(index), lane: .urgent)
            #expect(accepted)
        }
        peer.transport.poll(&recorder, wait: .immediate)
        peer.hangUp()
        let closed = pump(&peer.transport, &recorder) { !$0.closures.isEmpty }
        #expect(closed)
        for _ in 0..<10 { peer.transport.poll(&recorder, wait: WaitPolicy(timeoutNanoseconds: 100_000)) }
        #expect(recorder.closures.count == 1)
        #expect(recorder.sent[.urgent, default: []].count < 32)
    }

    @Test(arguments: links)
    func theLastWordBeforeAHangUpIsHeard(link: TransportFactory.Link) throws {
        // The peer refuses us: it writes why, and closes without having read what we sent.
        var peer = try RawPeer(link)
        var recorder = Recorder(arenaBytes: 64)
        let memory = Arena(1 << 20)
        let accepted = peer.transport.submit(
            FrameHeader(.pages, payloadBytes: 1 << 20), payload: memory.slice(0, 1 << 20), token: 1, lane: .urgent)
        #expect(accepted)
        peer.write(frameBytes(FrameHeader(.failure, payloadBytes: 64))[...])
        peer.hangUp()
        let closed = pump(&peer.transport, &recorder) { !$0.closures.isEmpty }
        #expect(closed)
        #expect(recorder.arrived.map(\.header.kind) == [.failure])
    }
}
