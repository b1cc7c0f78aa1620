import PageCore
import Testing

@testable import PageEngine

/// A link in small steps of time: what the window allows and is not on the way enters a queue, which the link empties at its
/// rate; bytes arrive half a round trip later, and their credit is back another half later.
private struct LinkModel {
    let bytesPerSecond: Double
    let roundTripNanoseconds: UInt64
    let stepNanoseconds: UInt64
    var now: UInt64 = 1_000_000
    var queuedBytes = 0.0
    var travelling: [(arrivesAt: UInt64, bytes: Double)] = []
    var returning: [(arrivesAt: UInt64, bytes: Double)] = []
    var outstandingBytes = 0.0
    var receivedBytes = 0.0
    private var nextPing: UInt64 = 0
    private var pongs: [(arrivesAt: UInt64, nanoseconds: UInt64)] = []
    /// Bytes the sender has for the push; nil for without end.
    var isPaused = false

    init(bytesPerSecond: Double, roundTripNanoseconds: UInt64) {
        self.bytesPerSecond = bytesPerSecond
        self.roundTripNanoseconds = roundTripNanoseconds
        stepNanoseconds = max(5_000, min(roundTripNanoseconds / 8, 50_000))
    }

    var queueNanoseconds: Double { queuedBytes / bytesPerSecond * 1e9 }

    mutating func step(_ pacer: inout PushPacer) {
        now += stepNanoseconds
        while let first = returning.first, first.arrivesAt <= now { outstandingBytes -= returning.removeFirst().bytes; _ = first }
        if !isPaused, Double(pacer.windowBytes) > outstandingBytes {
            queuedBytes += Double(pacer.windowBytes) - outstandingBytes
            outstandingBytes = Double(pacer.windowBytes)
        }
        let sent = min(queuedBytes, bytesPerSecond * Double(stepNanoseconds) / 1e9)
        queuedBytes -= sent
        if sent > 0 { travelling.append((now + roundTripNanoseconds / 2, sent)) }
        while let first = travelling.first, first.arrivesAt <= now {
            receivedBytes += first.bytes
            returning.append((now + roundTripNanoseconds / 2, first.bytes))
            travelling.removeFirst()
        }
        if now >= nextPing {
            // It waits behind what is queued, as a demand's answer does.
            let taken = roundTripNanoseconds + UInt64(queueNanoseconds)
            pongs.append((now + taken, taken))
            nextPing = now + 5_000_000
        }
        while let first = pongs.first, first.arrivesAt <= now {
            pacer.roundTrip(first.nanoseconds, nowNanoseconds: now)
            pongs.removeFirst()
        }
        pacer.update(receivedBytes: Int(receivedBytes), nowNanoseconds: now)
    }

    /// Runs for a while; the link's use (0...1) and the longest queue in it.
    mutating func run(_ pacer: inout PushPacer, nanoseconds: UInt64) -> (use: Double, longestQueueNanoseconds: Double) {
        let (start, received) = (now, receivedBytes)
        var longest = 0.0
        while now - start < nanoseconds {
            step(&pacer)
            longest = max(longest, queueNanoseconds)
        }
        return ((receivedBytes - received) / (bytesPerSecond * Double(now - start) / 1e9), longest)
    }
}

@Suite struct PushPacerTests {
    private static let page = 4096

    /// From 100 Mbit/s to loopback, from a rack to a continent: full, with a short queue, without a setting.
    @Test(arguments: [12.5e6, 125e6, 1.25e9, 4e9], [30_000, 200_000, 2_000_000, 50_000_000] as [UInt64])
    func fillsTheLinkAndKeepsTheQueueShort(bytesPerSecond: Double, roundTripNanoseconds: UInt64) {
        var link = LinkModel(bytesPerSecond: bytesPerSecond, roundTripNanoseconds: roundTripNanoseconds)
        var pacer = PushPacer(leastBytes: 2 * Self.page)
        // A session asks for its first round trips before anything is pushed.
        link.isPaused = true
        _ = link.run(&pacer, nanoseconds: 2 * roundTripNanoseconds + 20_000_000)
        link.isPaused = false
        _ = link.run(&pacer, nanoseconds: 40 * max(roundTripNanoseconds, 5_000_000))
        let (use, queue) = link.run(&pacer, nanoseconds: 60 * max(roundTripNanoseconds, 5_000_000))
        // Only the cap holds a link back whose round trip holds more than that.
        let held = Double(PushPacer.mostBytes) / (bytesPerSecond * Double(roundTripNanoseconds) / 1e9)
        #expect(use > min(0.93, 0.93 * held))
        // A few extents are the least, however long they take.
        let leastQueue = Double(PushPacer.floorBytes) / bytesPerSecond * 1e9
        #expect(queue <= 1.25 * max(Double(PushPacer.standardDelayTargetNanoseconds), leastQueue))
    }

    /// A queue that was there from the first round trip on is not taken for the link's own length for ever.
    @Test func findsTheEmptyLinkBehindAStandingQueue() {
        var link = LinkModel(bytesPerSecond: 125e6, roundTripNanoseconds: 200_000)
        var pacer = PushPacer(leastBytes: 2 * Self.page)
        pacer.roundTrip(3_000_000, nowNanoseconds: 0)
        _ = link.run(&pacer, nanoseconds: PushPacer.baseLifetimeNanoseconds + 500_000_000)
        let (use, queue) = link.run(&pacer, nanoseconds: 500_000_000)
        #expect(use > 0.93)
        #expect(queue <= 1.25 * Double(PushPacer.standardDelayTargetNanoseconds))
    }

    /// The path changes to a longer one: the old, shorter round trip expires, and the link is full again.
    @Test func recoversOnALongerPath() {
        var near = LinkModel(bytesPerSecond: 125e6, roundTripNanoseconds: 100_000)
        var pacer = PushPacer(leastBytes: 2 * Self.page)
        _ = near.run(&pacer, nanoseconds: 200_000_000)
        var far = LinkModel(bytesPerSecond: 125e6, roundTripNanoseconds: 20_000_000)
        (far.now, far.receivedBytes) = (near.now, near.receivedBytes)
        _ = far.run(&pacer, nanoseconds: PushPacer.baseLifetimeNanoseconds + 4_000_000_000)
        #expect(far.run(&pacer, nanoseconds: 1_000_000_000).use > 0.9)
    }

    /// A pause is no slow link.
    @Test func aPauseIsForgotten() {
        var link = LinkModel(bytesPerSecond: 1.25e9, roundTripNanoseconds: 100_000)
        var pacer = PushPacer(leastBytes: 2 * Self.page)
        _ = link.run(&pacer, nanoseconds: 1_000_000_000)
        let before = pacer.windowBytes
        link.isPaused = true
        _ = link.run(&pacer, nanoseconds: 500_000_000)
        #expect(Double(pacer.windowBytes) >= 0.9 * Double(before))
    }

    @Test func neverBelowTheLeast() {
        var pacer = PushPacer(leastBytes: 4 << 20)
        #expect(pacer.windowBytes == 4 << 20)
        for step in 1...100 as ClosedRange<UInt64> {
            pacer.roundTrip(10_000, nowNanoseconds: step * 3_000_000)
            pacer.update(receivedBytes: Int(step) * 100, nowNanoseconds: step * 3_000_000)
        }
        #expect(pacer.windowBytes == 4 << 20)
        #expect(pacer.bytesPerSecond > 0)
    }
}
