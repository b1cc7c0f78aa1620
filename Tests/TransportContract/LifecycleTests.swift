import CShims
import Glibc
import PageTransport
import PageWire
import Synchronization
import Testing

/// Closing, watching, and what is left behind (nothing).
extension TransportTests {
    private static func descriptorCount() -> Int {
        guard let directory = opendir("/proc/self/fd") else { return -1 }
        defer { closedir(directory) }
        var count = 0
        while readdir(directory) != nil { count += 1 }
        return count
    }

    @Test(arguments: TransportFactory.all)
    func closeSendsWhatIsQueued(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 2, sizes: TransportSizes())
        let memory = Arena(128 << 10)
        memory.fill(seed: 21)
        for index in 0..<20 {
            let accepted = pair.left.submit(
                FrameHeader(.pages, payloadBytes: 128 << 10, firstPage: index, argument: UInt64(index) * (128 << 10)),
                payload: memory.slice(0, 128 << 10),
                token: 0, lane: LaneIndex(UInt8(index % 2)))
            #expect(accepted)
        }
        // The other end reads on a thread of its own: `close` blocks this one.
        let reader = Reader(consume pair.right, arenaBytes: 20 * (128 << 10))
        let thread = try Thread { reader.run { $0.closures.count == 2 } }
        pair.left.close()
        thread.join()
        let recorder = reader.recorder
        #expect(recorder.arrived.count == 20)
        #expect(recorder.closures.allSatisfy { $0.reason == .endOfStream })
        for index in 0..<20 {
            #expect(memcmp(recorder.arena!.bytes.baseAddress! + index * (128 << 10), memory.bytes.baseAddress!, 128 << 10) == 0)
        }
        let refused = pair.left.submit(FrameHeader(.ping), copying: nil, lane: .urgent)
        #expect(refused == false)
        pair.left.close()  // twice is harmless
    }

    @Test(arguments: TransportFactory.all)
    func bothEndsMayCloseAtOnce(factory: TransportFactory) throws {
        for _ in 0..<5 {
            var pair = try factory.makePair(lanes: 3, sizes: TransportSizes())
            var left = Recorder()
            pair.left.poll(&left, wait: .immediate)
            let reader = Reader(consume pair.right, arenaBytes: 16)
            let thread = try Thread { reader.closeNow() }
            pair.left.close()
            thread.join()
        }
    }

    @Test(arguments: TransportFactory.all)
    func anEndlessSpinSeesFramesWatchesAndTheEnd(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 2, sizes: TransportSizes())
        let event = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        defer { close(event) }
        pair.right.watch(descriptor: event, token: 9)
        let reader = Reader(consume pair.right, arenaBytes: 64)
        // No time-out: only what happens ends a poll.
        let thread = try Thread { reader.spin { $0.closures.count == 2 } }
        var left = Recorder()
        for index in 0..<200 {
            let accepted = pair.left.submit(FrameHeader(.ping, argument: UInt64(index)), copying: nil, lane: LaneIndex(UInt8(index % 2)))
            #expect(accepted)
            if index == 100 { eventfd_write(event, 1) }
            let sent = pump(&pair.left, &left) { [lane = LaneIndex(UInt8(index % 2))] _ in reader.count(lane) > index / 2 }
            #expect(sent)
        }
        pair.left.close()
        thread.join()
        #expect(reader.recorder.arrived.count == 200)
        #expect(reader.recorder.readableTokens == [9])
        #expect(reader.recorder.closures.allSatisfy { $0.reason == .endOfStream })
    }

    @Test(arguments: TransportFactory.all)
    func watchesWakeTheLoop(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 1, sizes: TransportSizes())
        var recorder = Recorder()
        let event = eventfd(1, Int32(EFD_NONBLOCK | EFD_CLOEXEC))  // readable before the watch starts
        #expect(event >= 0)
        defer { close(event) }
        pair.left.watch(descriptor: event, token: 42)
        let sawFirst = pump(&pair.left, &recorder) { $0.readableTokens == [42] }
        #expect(sawFirst)
        var value: eventfd_t = 0
        for round in 2...5 {
            #expect(eventfd_read(event, &value) == 0)
            #expect(eventfd_write(event, 1) == 0)
            let seen = pump(&pair.left, &recorder) { $0.readableTokens.count >= round }
            #expect(seen)
        }
        #expect(recorder.readableTokens.allSatisfy { $0 == 42 })
        pair.left.unwatch(token: 42)
        pair.left.poll(&recorder, wait: .immediate)
        let count = recorder.readableTokens.count
        #expect(eventfd_write(event, 1) == 0)
        for _ in 0..<5 { pair.left.poll(&recorder, wait: WaitPolicy(timeoutNanoseconds: 1_000_000)) }
        #expect(recorder.readableTokens.count == count, "an ended watch is silent")
        pair.left.watch(descriptor: event, token: 43)
        let again = pump(&pair.left, &recorder) { $0.readableTokens.last == 43 }
        #expect(again)
        // The watches do not disturb the lanes.
        var right = Recorder()
        let accepted = pair.right.submit(FrameHeader(.ping), copying: nil, lane: .urgent)
        #expect(accepted)
        pair.right.poll(&right, wait: .immediate)
        let arrived = pump(&pair.left, &recorder) { $0.arrived.count == 1 }
        #expect(arrived)
    }

    /// By spinning, by sleeping, and by neither; no event is missed, and an ended watch is silent.
    @Test(arguments: TransportFactory.all)
    func eagerWatchesAreSeenHoweverOneWaits(factory: TransportFactory) throws {
        var pair = try factory.makePair(lanes: 2, sizes: TransportSizes())
        var recorder = Recorder()
        recorder.eager = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        let idle = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        defer {
            close(recorder.eager)
            close(idle)
        }
        pair.left.watchEagerly(descriptor: idle, token: 6)
        pair.left.watchEagerly(descriptor: recorder.eager, token: 7)
        let waits = [
            WaitPolicy(spinNanoseconds: .max, timeoutNanoseconds: .max), WaitPolicy(timeoutNanoseconds: seconds(10)), .immediate,
            WaitPolicy(spinNanoseconds: 1_000, timeoutNanoseconds: seconds(10)),
        ]
        for round in 0..<200 {
            #expect(eventfd_write(recorder.eager, 1) == 0)
            let end = now() + seconds(30)
            while recorder.eagerCount == round, now() < end { pair.left.poll(&recorder, wait: waits[(round * 7) % 11 % 4]) }
            #expect(recorder.eagerCount == round + 1)
        }
        pair.left.unwatch(token: 7)
        pair.left.unwatch(token: 6)
        pair.left.poll(&recorder, wait: .immediate)
        #expect(eventfd_write(recorder.eager, 1) == 0)
        pair.left.poll(&recorder, wait: WaitPolicy(spinNanoseconds: 1_000_000, timeoutNanoseconds: 2_000_000))
        #expect(recorder.eagerCount == 200)
    }

    @Test(arguments: TransportFactory.all)
    func nothingIsLeftBehind(factory: TransportFactory) throws {
        // The first round may open what stays (name service, for one).
        var before = 0
        for round in 0..<6 {
            if round == 1 { before = Self.descriptorCount() }
            var pair = try factory.makePair(lanes: 4, sizes: TransportSizes())
            var left = Recorder()
            var right = Recorder()
            let size = round % 2 == 0 ? 4096 : 1 << 20
            let memory = Arena(size)
            for lane in 0..<4 {
                let accepted = pair.left.submit(
                    FrameHeader(.pages, payloadBytes: size), payload: memory.slice(0, size), token: 1, lane: LaneIndex(UInt8(lane)))
                #expect(accepted)
            }
            pair.left.poll(&left, wait: .immediate)
            pair.right.poll(&right, wait: .immediate)
            if round % 2 == 0 { pair.left.close() }
            // In odd rounds both are dropped in the middle of their frames.
        }
        #expect(Self.descriptorCount() == before)
    }
}

/// A transport with its recorder, handed to one other thread.
final class Reader: @unchecked Sendable {
    private var transport: TransportUnderTest?
    var recorder: Recorder
    init(_ transport: consuming TransportUnderTest, arenaBytes: Int) {
        self.transport = consume transport
        recorder = Recorder(arenaBytes: arenaBytes)
    }
    func run(until condition: (Recorder) -> Bool) {
        guard var mine = transport.take() else { return }
        _ = pump(&mine, &recorder, until: condition)
    }
    private let counts = [Atomic64(), Atomic64()]
    /// Frames arrived on the lane so far, while `spin` runs.
    func count(_ lane: LaneIndex) -> Int { counts[Int(lane.rawValue)].value.load(ordering: .acquiring) }
    func spin(until condition: (Recorder) -> Bool) {
        guard var mine = transport.take() else { return }
        while !condition(recorder) {
            let before = recorder.arrived.count
            mine.poll(&recorder, wait: WaitPolicy(spinNanoseconds: .max, timeoutNanoseconds: .max))
            for frame in recorder.arrived[before...] { counts[Int(frame.lane.rawValue)].value.add(1, ordering: .releasing) }
        }
    }
    func closeNow() {
        guard var mine = transport.take() else { return }
        mine.close()
    }
}

final class Atomic64: Sendable {
    let value = Atomic<Int>(0)
}

/// A thread that is joined.
struct Thread {
    private var handle = pthread_t()
    init(_ body: @escaping @Sendable () -> Void) throws {
        final class Work { let body: @Sendable () -> Void; init(_ body: @escaping @Sendable () -> Void) { self.body = body } }
        let status = pthread_create(
            &handle, nil,
            { argument in
                Unmanaged<Work>.fromOpaque(argument!).takeRetainedValue().body()
                return nil
            }, Unmanaged.passRetained(Work(body)).toOpaque())
        try #require(status == 0)
    }
    func join() { pthread_join(handle, nil) }
}
