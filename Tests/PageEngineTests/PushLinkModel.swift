import PageCore
import Testing

@testable import PageEngine

/// One bottleneck between a source and a destination, in virtual time, with what makes a real one hard: credit comes in
/// batches and lets bursts go, the queue is bounded (what it drops is sent again), pings share it, one at a time, and
/// scheduling spreads them. The same seed gives the same run.
struct PushLinkModel {
    struct Link: Sendable, CustomTestStringConvertible {
        var bytesPerSecond: Double
        /// One way, without a queue.
        var delayNanoseconds: UInt64
        var queueBytes: Int
        /// What scheduling adds to a round trip at most, evenly spread.
        var jitterNanoseconds: UInt64 = 20_000

        var testDescription: String { "\(bytesPerSecond / 125_000) Mbit/s, \(delayNanoseconds / 1_000) us, queue \(queueBytes >> 10) KiB" }
    }

    struct Outcome {
        /// Delivered, as a part of what the link carries.
        var use = 0.0
        /// What a demand's answer would have waited in the queue: 99 of 100 steps less.
        var queueP99Nanoseconds: UInt64 = 0
    }

    private static let stepNanoseconds: UInt64 = 50_000
    private static let extentBytes = 16 << 10
    private static let pingNanoseconds: UInt64 = 2_000_000

    /// May change between runs.
    var link: Link
    private(set) var pacer: PushPacer
    private var random: SeededRandom
    private var now: UInt64 = 1
    private var received = 0
    private var outstanding = 0
    /// Credit the source holds.
    private var sendable = 0
    private var queued = 0.0
    private var arrivals = Transit()
    private var credits = Transit()
    private var ping: (sent: UInt64, back: UInt64)?
    private var nextPing: UInt64 = 0

    init(_ link: Link, leastBytes: Int = 8192, seed: UInt64) {
        self.link = link
        pacer = PushPacer(leastBytes: leastBytes)
        random = SeededRandom(seed: seed)
    }

    /// Runs for a time, in which the source has something to send or has not.
    mutating func run(_ nanoseconds: UInt64, isPushing: Bool = true) -> Outcome {
        let (start, before) = (now, received)
        var waits: [UInt64] = []
        while now < start + nanoseconds {
            step(isPushing: isPushing)
            waits.append(waitNanoseconds)
        }
        waits.sort()
        let carried = Double(now - start) * link.bytesPerSecond / 1e9
        return Outcome(use: Double(received - before) / carried, queueP99Nanoseconds: waits[waits.count * 99 / 100])
    }

    private var waitNanoseconds: UInt64 { UInt64(queued / link.bytesPerSecond * 1e9) }

    private mutating func step(isPushing: Bool) {
        now += Self.stepNanoseconds
        queued = max(0, queued - link.bytesPerSecond * Double(Self.stepNanoseconds) / 1e9)
        let arrived = arrivals.take(until: now)
        received += arrived
        outstanding -= arrived
        if let answered = ping, answered.back <= now {
            pacer.roundTrip(answered.back - answered.sent, nowNanoseconds: now)
            ping = nil
        }
        pacer.update(receivedBytes: received, nowNanoseconds: now)
        let due = pacer.windowBytes - outstanding
        if due > 0, due >= pacer.grantBytes {
            outstanding += due
            credits.put(due, at: now + link.delayNanoseconds)
        }
        sendable += credits.take(until: now)
        if isPushing { send() }
        guard ping == nil, now >= nextPing else { return }
        nextPing = now + Self.pingNanoseconds
        ping = (now, now + 2 * link.delayNanoseconds + waitNanoseconds + UInt64(random.next(below: Int(link.jitterNanoseconds) + 1)))
    }

    private mutating func send() {
        while sendable > 0 {
            let bytes = min(sendable, Self.extentBytes)
            // A full queue drops; the sender's TCP sends again.
            guard queued + Double(bytes) <= Double(link.queueBytes) else { return }
            sendable -= bytes
            queued += Double(bytes)
            arrivals.put(bytes, at: now + waitNanoseconds + link.delayNanoseconds)
        }
    }

    /// Bytes on their way, in order.
    private struct Transit {
        private var entries: [(at: UInt64, bytes: Int)] = []
        private var first = 0

        mutating func put(_ bytes: Int, at time: UInt64) { entries.append((time, bytes)) }

        mutating func take(until now: UInt64) -> Int {
            var bytes = 0
            while first < entries.count, entries[first].at <= now {
                bytes += entries[first].bytes
                first += 1
            }
            return bytes
        }
    }
}
