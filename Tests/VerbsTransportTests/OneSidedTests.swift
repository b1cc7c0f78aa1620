import Glibc
import PageTransport
import PageWire
import Testing
import Verbs

@testable import VerbsTransport

/// Reads and writes of the peer's memory, and what becomes of wrong ones.
extension TransportTests {
    /// A handler that writes down what one-sided work brings.
    private struct OneSidedRecorder: TransportHandler {
        var fetched: [UInt64] = []
        var written: [(immediate: UInt32, byteCount: Int)] = []
        var sent: [UInt64] = []
        var arrived: [FrameHeader] = []
        var closures: [LaneClosure] = []
        mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget { .discard }
        mutating func arrived(_ header: FrameHeader, lane: LaneIndex) { arrived.append(header) }
        mutating func sent(_ token: UInt64, lane: LaneIndex) { sent.append(token) }
        mutating func readable(_ token: UInt64) {}
        mutating func fetched(_ token: UInt64, lane: LaneIndex) { fetched.append(token) }
        mutating func written(_ immediate: UInt32, byteCount: Int, lane: LaneIndex) { written.append((immediate, byteCount)) }
        mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) { closures.append(reason) }
    }

    /// Two transports, and the domains memory is registered in for them.
    private struct Ends: ~Copyable {
        var left: VerbsTransport
        var right: VerbsTransport
        let leftDomain: ProtectionDomain
        let rightDomain: ProtectionDomain

        init(lanes: Int = 2) throws {
            let (leftLanes, rightLanes) = try connectedLanes(lanes)
            let leftTransport = try VerbsTransport(lanes: leftLanes)
            let rightTransport = try VerbsTransport(lanes: rightLanes)
            leftDomain = leftLanes[0].domain
            rightDomain = rightLanes[0].domain
            left = leftTransport
            right = rightTransport
        }

        /// Polls both until the condition holds, half a minute at most.
        mutating func pump(
            _ leftSeen: inout OneSidedRecorder, _ rightSeen: inout OneSidedRecorder,
            until condition: (OneSidedRecorder, OneSidedRecorder) -> Bool
        ) -> Bool {
            let end = now() + seconds(30)
            while !condition(leftSeen, rightSeen) {
                guard now() < end else { return false }
                left.poll(&leftSeen, wait: .immediate)
                right.poll(&rightSeen, wait: WaitPolicy(timeoutNanoseconds: 200_000))
            }
            return true
        }
    }

    private static let bytes = 64 << 10

    @Test func aGlanceTakesAnswersWithoutPolling() throws {
        var ends = try Ends()
        let origin = Arena(Self.bytes)
        origin.fill(seed: 5)
        let place = Arena(Self.bytes)
        let remote = try registration(ends.rightDomain, origin, .remoteRead)
        let local = try registration(ends.leftDomain, place, .localWrite)
        var seen = OneSidedRecorder()
        #expect(!ends.left.glance(&seen, isFull: true))
        let accepted = ends.left.fetch(
            4096, from: RemoteMemory(address: UInt64(remote.address), key: remote.remoteKey),
            into: LocalMemory(address: local.address, key: local.localKey), token: 7, lane: LaneIndex(1))
        #expect(accepted)
        // Another lane's doorbell does not ring this one's.
        ends.left.flush(.urgent)
        #expect(seen.fetched.isEmpty)
        ends.left.flush(LaneIndex(1))
        let end = now() + seconds(30)
        while seen.fetched.isEmpty, now() < end { _ = ends.left.glance(&seen, isFull: false) }
        #expect(seen.fetched == [7])
        #expect(memcmp(origin.bytes.baseAddress!, place.bytes.baseAddress!, 4096) == 0)
        #expect(!ends.left.glance(&seen, isFull: false))
        #expect(seen.closures.isEmpty)
    }

    @Test func readsComeInOrderAndWhole() throws {
        var ends = try Ends()
        let origin = Arena(Self.bytes)
        origin.fill(seed: 4)
        let place = Arena(Self.bytes)
        let remote = try registration(ends.rightDomain, origin, .remoteRead)
        let local = try registration(ends.leftDomain, place, .localWrite)
        for page in 0..<16 {
            let accepted = ends.left.fetch(
                4096, from: RemoteMemory(address: UInt64(remote.address) + UInt64(page << 12), key: remote.remoteKey),
                into: LocalMemory(address: local.address + UInt(page << 12), key: local.localKey), token: UInt64(page),
                lane: LaneIndex(1))
            #expect(accepted)
        }
        var (left, right) = (OneSidedRecorder(), OneSidedRecorder())
        let done = ends.pump(&left, &right) { left, _ in left.fetched.count == 16 }
        #expect(done)
        #expect(left.fetched == Array(0..<16))
        #expect(memcmp(origin.bytes.baseAddress!, place.bytes.baseAddress!, Self.bytes) == 0)
        #expect(right.arrived.isEmpty && right.closures.isEmpty && left.closures.isEmpty)
    }

    @Test func aFullLaneRefusesFurtherReads() throws {
        var ends = try Ends()
        let place = Arena(4096)
        let origin = Arena(4096)
        let remote = try registration(ends.rightDomain, origin, .remoteRead)
        let local = try registration(ends.leftDomain, place, .localWrite)
        var accepted = 0
        while accepted < 1000,
            ends.left.fetch(
                4096, from: RemoteMemory(address: UInt64(remote.address), key: remote.remoteKey),
                into: LocalMemory(address: local.address, key: local.localKey), token: UInt64(accepted), lane: LaneIndex(1))
        { accepted += 1 }
        #expect(accepted == VerbsConfiguration().mostOneSided)
        #expect(ends.left.freeOneSided(LaneIndex(1)) == 0)
        var (left, right) = (OneSidedRecorder(), OneSidedRecorder())
        let done = ends.pump(&left, &right) { left, _ in left.fetched.count == accepted }
        #expect(done)
        #expect(ends.left.freeOneSided(LaneIndex(1)) == accepted)
    }

    @Test func writesAreAnnouncedByTheirImmediates() throws {
        var ends = try Ends()
        let origin = Arena(Self.bytes)
        origin.fill(seed: 6)
        let place = Arena(Self.bytes)
        let local = try registration(ends.leftDomain, origin, [])
        let remote = try registration(ends.rightDomain, place, [.localWrite, .remoteWrite])
        var (left, right) = (OneSidedRecorder(), OneSidedRecorder())
        var next = 0
        // More than the peer has buffers for: each uses one up.
        let count = 300
        let end = now() + seconds(30)
        while right.written.count < count, now() < end {
            while next < count,
                ends.left.write(
                    4096, from: LocalMemory(address: local.address + UInt((next % 16) << 12), key: local.localKey),
                    to: RemoteMemory(address: UInt64(remote.address) + UInt64((next % 16) << 12), key: remote.remoteKey),
                    immediate: UInt32(next), token: UInt64(next), lane: LaneIndex(1))
            { next += 1 }
            ends.left.poll(&left, wait: .immediate)
            ends.right.poll(&right, wait: WaitPolicy(timeoutNanoseconds: 200_000))
        }
        #expect(right.written.map(\.immediate) == (0..<UInt32(count)).map { $0 })
        #expect(right.written.allSatisfy { $0.byteCount == 4096 })
        #expect(memcmp(origin.bytes.baseAddress!, place.bytes.baseAddress!, Self.bytes) == 0)
        let allSent = ends.pump(&left, &right) { left, _ in left.sent.count == count }
        #expect(allSent)
    }

    /// What a peer can get wrong: the lane ends with the device's own status, and nothing is written.
    enum Wrong: String, CaseIterable { case key, pastTheEnd, deregistered, notReadable }

    @Test(arguments: Wrong.allCases) func wrongReadsAreRefused(_ wrong: Wrong) throws {
        var ends = try Ends()
        let origin = Arena(4096)
        origin.fill(seed: 8)
        let place = Arena(8192)
        let local = try registration(ends.leftDomain, place, .localWrite)
        var key: UInt32
        var address = UInt64(UInt(bitPattern: origin.bytes.baseAddress!))
        // Kept until the end, except where its absence is the point.
        var kept: MemoryRegistration?
        do {
            let remote = try registration(ends.rightDomain, origin, wrong == .notReadable ? .localWrite : .remoteRead)
            key = remote.remoteKey
            if wrong != .deregistered { kept = consume remote }
        }
        if wrong == .key { key ^= 0x5A }
        if wrong == .pastTheEnd { address += 4096 }
        let accepted = ends.left.fetch(
            4096, from: RemoteMemory(address: address, key: key), into: LocalMemory(address: local.address, key: local.localKey),
            token: 1, lane: LaneIndex(1))
        #expect(accepted)
        var (left, right) = (OneSidedRecorder(), OneSidedRecorder())
        let done = ends.pump(&left, &right) { left, _ in !left.closures.isEmpty }
        #expect(done)
        #expect(left.fetched.isEmpty)
        #expect(left.closures.first == .failedWork(code: WorkStatus.remoteAccess.rawValue))
        #expect(place.bytes.allSatisfy { $0 == 0 })
        #expect((kept != nil) == (wrong != .deregistered))
    }

    @Test func aWrongLocalKeyEndsTheLane() throws {
        var ends = try Ends()
        let origin = Arena(4096)
        let place = Arena(4096)
        let remote = try registration(ends.rightDomain, origin, .remoteRead)
        let local = try registration(ends.leftDomain, place, .localWrite)
        let accepted = ends.left.fetch(
            4096, from: RemoteMemory(address: UInt64(remote.address), key: remote.remoteKey),
            into: LocalMemory(address: local.address, key: local.localKey ^ 0x5A), token: 1, lane: LaneIndex(1))
        #expect(accepted)
        var (left, right) = (OneSidedRecorder(), OneSidedRecorder())
        let done = ends.pump(&left, &right) { left, _ in !left.closures.isEmpty }
        #expect(done)
        #expect(left.closures.first == .failedWork(code: WorkStatus.localProtection.rawValue))
    }

    @Test func nobodyListensIsToldAtOnce() throws {
        #expect(throws: VerbsError.self) {
            _ = try VerbsConnection.connect(to: VerbsAddress(host: testAddress!, port: 1), timeoutNanoseconds: seconds(10))
        }
    }

    private func registration(_ domain: ProtectionDomain, _ arena: Arena, _ access: MemoryAccess) throws -> MemoryRegistration {
        try MemoryRegistration(
            domain, address: UInt(bitPattern: arena.bytes.baseAddress!), lengthBytes: arena.bytes.count, access: access)
    }
}
