import CShims
import Glibc
import PageTransport
import PageWire

// What the tests of every transport share. The files of this folder know the contract alone. Each transport's test target
// links to them, and names its `TransportUnderTest` and its `TransportFactory`.

/// Two ends of one connection, whatever the transport.
struct TransportPair<Transport: PageTransport & ~Copyable>: ~Copyable {
    var left: Transport
    var right: Transport
}

/// What tests vary, in terms every transport has.
struct TransportSizes: Sendable {
    var queueFrames = 64
    var readAheadBytes = 32
    var zeroCopyThresholdBytes = Int.max
}

func seconds(_ count: Int) -> UInt64 { UInt64(count) * 1_000_000_000 }

/// Memory for payloads, freed with the last reference.
final class Arena {
    let bytes: UnsafeMutableRawBufferPointer
    init(_ count: Int) {
        bytes = .allocate(byteCount: count, alignment: 4096)
        bytes.initializeMemory(as: UInt8.self, repeating: 0)
    }
    deinit { bytes.deallocate() }

    func fill(seed: UInt64) {
        var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
        for index in 0..<bytes.count {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            bytes[index] = UInt8(truncatingIfNeeded: state >> 24)
        }
    }
    func slice(_ offset: Int, _ count: Int) -> UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count]) }
}

/// A handler that writes everything down. Payloads go to `argument` bytes into its arena.
struct Recorder: TransportHandler {
    enum Placement { case arena, discard, refuse(FrameError) }
    var arena: Arena?
    var placement = Placement.arena
    var placed: [FrameHeader] = []
    var arrived: [(header: FrameHeader, lane: LaneIndex)] = []
    var sent: [LaneIndex: [UInt64]] = [:]
    var readableTokens: [UInt64] = []
    var closures: [(lane: LaneIndex, reason: LaneClosure)] = []
    /// An eventfd that is watched eagerly, and how often it had something when it was looked at, for whatever reason.
    var eager: Int32 = -1
    var eagerCount = 0

    init(arenaBytes: Int = 0) {
        if arenaBytes > 0 { arena = Arena(arenaBytes) }
    }

    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget {
        placed.append(header)
        switch placement {
        case .refuse(let error): throw error
        case .discard: return .discard
        case .arena:
            guard let arena else { return .discard }
            precondition(Int(header.argument) + header.payloadBytes <= arena.bytes.count)
            return .memory(arena.bytes.baseAddress! + Int(header.argument))
        }
    }
    mutating func arrived(_ header: FrameHeader, lane: LaneIndex) { arrived.append((header, lane)) }
    mutating func sent(_ token: UInt64, lane: LaneIndex) { sent[lane, default: []].append(token) }
    mutating func readable(_ token: UInt64) {
        readableTokens.append(token)
        _ = tried(token)
    }
    mutating func tried(_ token: UInt64) -> Bool {
        var value: eventfd_t = 0
        guard eager >= 0, eventfd_read(eager, &value) == 0 else { return false }
        eagerCount += Int(value)
        return true
    }
    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) { closures.append((lane, reason)) }

    func reason(_ lane: LaneIndex) -> LaneClosure? {
        closures.first { $0.lane == lane }?.reason
    }
}

func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// Polls one end until the condition holds.
func pump<Transport: PageTransport & ~Copyable>(
    _ transport: inout Transport, _ recorder: inout Recorder, until condition: (Recorder) -> Bool
) -> Bool {
    let end = now() + seconds(30)
    while !condition(recorder) {
        guard now() < end else { return false }
        transport.poll(&recorder, wait: WaitPolicy(timeoutNanoseconds: 1_000_000))
    }
    return true
}

/// Polls both ends in turn until the condition holds; `feed` runs before each turn.
func pump<Transport: PageTransport & ~Copyable>(
    _ pair: inout TransportPair<Transport>, _ left: inout Recorder, _ right: inout Recorder,
    spinNanoseconds: UInt64 = 0, feed: (inout Transport) -> Void = { (_: inout Transport) in },
    until condition: (Recorder, Recorder) -> Bool
) -> Bool {
    let end = now() + seconds(60)
    while !condition(left, right) {
        guard now() < end else { return false }
        feed(&pair.left)
        pair.left.poll(&left, wait: .immediate)
        pair.right.poll(&right, wait: WaitPolicy(spinNanoseconds: spinNanoseconds, timeoutNanoseconds: 200_000))
    }
    return true
}
