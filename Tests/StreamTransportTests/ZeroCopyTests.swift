import Glibc
import PageTransport
import PageWire
import Testing

@testable import StreamTransport

/// Sends that spare the kernel's copy: TCP alone has them.
extension TransportTests {
    @Test func zeroCopySendsAreNoticedWhenCopied() throws {
        var pair = try TransportFactory(link: .tcp).makePair(lanes: 2, sizes: TransportSizes(zeroCopyThresholdBytes: 4096))
        let size = 256 << 10
        let memory = Arena(size)
        memory.fill(seed: 5)
        var left = Recorder()
        var right = Recorder(arenaBytes: size)
        for index in 0..<40 {
            let accepted = pair.left.submit(
                FrameHeader(.pages, payloadBytes: size), payload: memory.slice(0, size), token: UInt64(index), lane: LaneIndex(1))
            #expect(accepted)
        }
        let done = pump(&pair, &left, &right) { left, right in right.arrived.count == 40 && left.sent[LaneIndex(1)]?.count == 40 }
        #expect(done)
        #expect(memcmp(right.arena!.bytes.baseAddress!, memory.bytes.baseAddress!, size) == 0)
        let sends = pair.left.zeroCopySends(LaneIndex(1))
        #expect(sends.total > 0)
        // Loopback copies when the receiver takes the bytes; the first report of it ends the attempts.
        if sends.copied > 0 { #expect(sends.total < 40) }
        #expect(pair.left.zeroCopySends(.urgent).total == 0)
    }
}
