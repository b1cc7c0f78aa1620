import Glibc
import PageTransport
import PageWire
import Testing

/// Frames between two ends.
extension TransportTests {
    static let sizes = [1, 31, 32, 33, 63, 64, 4063, 4064, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 131_072, 131_073, 1 << 20, 2 << 20]

    @Test(arguments: TransportFactory.all, [32, 100, 4128, 65536].flatMap { [($0, 0), ($0, 150_000)] })
    func everySizeLandsWherePlaced(factory: TransportFactory, way: (readAheadBytes: Int, spinNanoseconds: UInt64)) throws {
        var pair = try factory.makePair(lanes: 2, sizes: TransportSizes(readAheadBytes: way.readAheadBytes))
        let gap = 64
        let total = Self.sizes.reduce(0) { $0 + $1 + gap }
        let origin = Arena(total)
        origin.fill(seed: 7)
        var left = Recorder(arenaBytes: total)
        var right = Recorder(arenaBytes: total)
        var offset = 0
        for (index, size) in Self.sizes.enumerated() {
            let header = FrameHeader(.pages, payloadBytes: size, firstPage: index, argument: UInt64(offset))
            let lane = LaneIndex(UInt8(index % 2))
            #expect(pair.left.submit(header, payload: origin.slice(offset, size), token: UInt64(index), lane: lane) == true)
            #expect(pair.right.submit(header, payload: origin.slice(offset, size), token: UInt64(index), lane: lane) == true)
            #expect(pair.left.submit(FrameHeader(.ping, argument: UInt64(index)), copying: nil, lane: lane) == true)
            offset += size + gap
        }
        let count = Self.sizes.count
        let done = pump(&pair, &left, &right, spinNanoseconds: way.spinNanoseconds) { left, right in
            right.arrived.count == 2 * count && left.arrived.count == count
                && left.sent.values.reduce(0) { $0 + $1.count } == count && right.sent.values.reduce(0) { $0 + $1.count } == count
        }
        #expect(done)
        offset = 0
        for size in Self.sizes {
            for arena in [left.arena!, right.arena!] {
                #expect(memcmp(arena.bytes.baseAddress! + offset, origin.bytes.baseAddress! + offset, size) == 0)
                let around = arena.bytes[(offset + size)..<(offset + size + gap)]
                #expect(around.allSatisfy { $0 == 0 }, "nothing is written beyond a payload of \(size) bytes")
            }
            offset += size + gap
        }
        #expect(
            right.arrived.filter { $0.lane == .urgent && $0.header.kind == .pages }.map(\.header.firstPage)
                == Array(stride(from: 0, to: count, by: 2)))
        #expect(left.closures.isEmpty && right.closures.isEmpty)
    }

    @Test(arguments: TransportFactory.all)
    func copiedPayloadsMayChangeAtOnce(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes())
        var left = Recorder()
        var right = Recorder(arenaBytes: 1 << 20)
        var sizes: [Int] = []
        var submitted = 0
        // More than the room for copies, so that places are used again; the room's end falls in the middle of some.
        let all = (0..<200).map { ($0 * 7919) % (FrameLimits.mostControlBytes + 1) } + [FrameLimits.mostControlBytes]
        let memory = Arena(FrameLimits.mostControlBytes)
        let done = pump(
            &pair, &left, &right,
            feed: { transport in
                while submitted < all.count {
                    let size = all[submitted]
                    memset(memory.bytes.baseAddress!, Int32(submitted & 0xFF), size)
                    let header = FrameHeader(.machineState, payloadBytes: size, argument: 0)
                    guard transport.submit(header, copying: memory.slice(0, size), lane: .urgent) else { break }
                    memset(memory.bytes.baseAddress!, 0xEE, size)
                    submitted += 1
                }
            }
        ) { _, right in
            // One frame at a time lies in the arena; check it as soon as it is there.
            while sizes.count < right.arrived.count { sizes.append(right.arrived[sizes.count].header.payloadBytes) }
            return right.arrived.count == all.count
        }
        #expect(done)
        #expect(sizes == all)
        #expect(right.arena!.slice(0, FrameLimits.mostControlBytes).allSatisfy { $0 == UInt8(200 & 0xFF) })
        #expect(left.sent.isEmpty, "copied payloads have no token")
    }

    @Test(arguments: TransportFactory.all)
    func everyCopiedByteIsRight(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes(queueFrames: 16))
        var left = Recorder()
        let each = 20_011
        let count = 64
        var right = Recorder(arenaBytes: each * count)
        let origin = Arena(each * count)
        origin.fill(seed: 3)
        var submitted = 0
        let done = pump(
            &pair, &left, &right,
            feed: { transport in
                while submitted < count {
                    let header = FrameHeader(.regionTable, payloadBytes: each, argument: UInt64(submitted * each))
                    guard transport.submit(header, copying: origin.slice(submitted * each, each), lane: .urgent) else { break }
                    submitted += 1
                }
            }
        ) { $1.arrived.count == count }
        #expect(done)
        #expect(memcmp(right.arena!.bytes.baseAddress!, origin.bytes.baseAddress!, each * count) == 0)
    }

    @Test(arguments: TransportFactory.all)
    func aFullQueueSaysNoAndRecovers(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes(queueFrames: 8))
        let payload = Arena(1 << 20)
        payload.fill(seed: 9)
        var accepted = 0
        while pair.left.submit(
            FrameHeader(.pages, payloadBytes: 1 << 20, firstPage: accepted), payload: payload.slice(0, 1 << 20), token: UInt64(accepted),
            lane: .urgent)
        {
            accepted += 1
            try #require(accepted <= 8)
        }
        #expect(accepted == 8)
        #expect(pair.left.freeSlots(.urgent) == 0)
        #expect(pair.left.pendingBytes(.urgent) == 8 * (1 << 20 + 32))
        #expect(pair.left.submit(FrameHeader(.ping), copying: nil, lane: .urgent) == false)
        var left = Recorder()
        var right = Recorder(arenaBytes: 1 << 20)
        #expect(pump(&pair, &left, &right) { left, right in right.arrived.count == 8 && left.sent[.urgent]?.count == 8 })
        #expect(pair.left.freeSlots(.urgent) == 8)
        #expect(pair.left.pendingBytes(.urgent) == 0)
        #expect(left.sent[.urgent] == Array(0..<8))
        #expect(pair.left.submit(FrameHeader(.ping), copying: nil, lane: .urgent) == true)
        #expect(pump(&pair, &left, &right) { $1.arrived.count == 9 })
    }

    @Test(arguments: TransportFactory.all, [Int.max, 4096])
    func lanesKeepTheirOrderAndTokensComeOnce(factory: TransportFactory, zeroCopyThresholdBytes: Int) throws {
        var pair = try factory.makePair(lanes: 4, sizes: TransportSizes(queueFrames: 16, zeroCopyThresholdBytes: zeroCopyThresholdBytes))
        var random = SystemRandomNumberGenerator()
        let perLane = 600
        let memory = Arena(256 << 10)
        memory.fill(seed: 11)
        var next = [Int](repeating: 0, count: 4)
        var left = Recorder()
        var right = Recorder()
        let done = pump(
            &pair, &left, &right,
            feed: { transport in
                for lane in 0..<4 {
                    while next[lane] < perLane {
                        let size = Int.random(in: 1...(lane == 0 ? 4096 : 100_000), using: &random)
                        let header = FrameHeader(.pages, payloadBytes: size, firstPage: next[lane], argument: 0)
                        guard
                            transport.submit(
                                header, payload: memory.slice(0, size), token: UInt64(next[lane]), lane: LaneIndex(UInt8(lane)))
                        else { break }
                        next[lane] += 1
                    }
                }
            }
        ) { left, right in
            right.arrived.count == 4 * perLane && left.sent.values.allSatisfy { $0.count == perLane } && left.sent.count == 4
        }
        #expect(done)
        for lane in 0..<4 {
            let lane = LaneIndex(UInt8(lane))
            #expect(right.arrived.filter { $0.lane == lane }.map(\.header.firstPage) == Array(0..<perLane))
            #expect(left.sent[lane] == (0..<perLane).map { UInt64($0) })
        }
    }

    @Test(arguments: TransportFactory.all)
    func hundredThousandSmallFrames(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes(queueFrames: 256, readAheadBytes: 8192))
        var left = Recorder()
        var right = Recorder()
        var next = 0
        let done = pump(
            &pair, &left, &right,
            feed: { transport in
                while next < 100_000,
                    transport.submit(
                        FrameHeader(.request, firstPage: next, pageCount: 16, argument: UInt64(next)), copying: nil, lane: .urgent)
                {
                    next += 1
                }
            }
        ) { $1.arrived.count == 100_000 }
        #expect(done)
        #expect(right.arrived.enumerated().allSatisfy { $1.header.firstPage == $0 && $1.header.argument == UInt64($0) })
    }

    @Test(arguments: TransportFactory.all)
    func nothingLeavesBeforeFlush(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes())
        var right = Recorder()
        #expect(pair.left.submit(FrameHeader(.ping), copying: nil, lane: .urgent) == true)
        pair.right.poll(&right, wait: WaitPolicy(timeoutNanoseconds: 5_000_000))
        #expect(right.arrived.isEmpty)
        pair.left.flush()
        #expect(pump(&pair.right, &right) { $0.arrived.count == 1 })
    }

    @Test(arguments: TransportFactory.all)
    func droppedPayloadsStillArrive(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes(readAheadBytes: 100))
        var left = Recorder()
        var right = Recorder()
        right.placement = .discard
        let memory = Arena(300_000)
        for index in 0..<10 {
            #expect(
                pair.left.submit(
                    FrameHeader(.pages, payloadBytes: 300_000, firstPage: index), payload: memory.slice(0, 300_000), token: 1, lane: .urgent
                ) == true)
        }
        #expect(pump(&pair, &left, &right) { $1.arrived.count == 10 })
        #expect(right.arrived.map(\.header.firstPage) == Array(0..<10))
    }

    @Test(arguments: TransportFactory.all)
    func spinningAndSleepingBothSeeFrames(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes())
        var left = Recorder()
        var right = Recorder()
        for (index, wait) in [
            WaitPolicy(spinNanoseconds: .max, timeoutNanoseconds: seconds(10)), WaitPolicy(timeoutNanoseconds: seconds(10)),
            WaitPolicy(spinNanoseconds: 1000, timeoutNanoseconds: .max),
        ].enumerated() {
            #expect(pair.left.submit(FrameHeader(.ping), copying: nil, lane: .urgent) == true)
            pair.left.poll(&left, wait: .immediate)
            pair.left.poll(&left, wait: .immediate)
            while right.arrived.count == index { pair.right.poll(&right, wait: wait) }
            #expect(right.arrived.count == index + 1)
        }
        pair.right.poll(&right, wait: WaitPolicy(spinNanoseconds: 1000, timeoutNanoseconds: 100_000))
        #expect(right.arrived.count == 3)
    }
}
