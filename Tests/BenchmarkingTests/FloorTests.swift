import HostMemory
import TestSupport
import Testing

@testable import Benchmarking

/// The floors do what they say: a floor that skips its work would make every figure look bad.
@Suite(.leavesNothing, .serialized) struct FloorTests {
    @Test(arguments: SocketKind.allCases, WaitMode.extremes)
    func everyExchangeIsTimed(kind: SocketKind, mode: WaitMode) throws {
        #expect(try PingPongFloor.measure(kind, mode, count: 50).count == 50)
    }

    @Test(arguments: WaitMode.extremes)
    func everyFaultOfTheFloorIsResolved(mode: WaitMode) throws {
        let memory = try TwiceMappedMemory(lengthBytes: 1 << 20)
        try memory.rearm()
        let order = TouchOrder.random(pageCount: memory.guest.pageCount, count: 200, seed: 1)
        #expect(try UserfaultFloor.measure(memory, order: order, mode: mode).count > 100)
    }

    @Test(arguments: SocketKind.allCases, [1, 2])
    func theBareStreamMovesEveryPage(kind: SocketKind, streams: Int) throws {
        let image = try BenchmarkImage(lengthBytes: 4 << 20)
        let memory = try TwiceMappedMemory(lengthBytes: 4 << 20)
        try memory.rearm()
        _ = try StreamFloor(source: image.mapped()).measure(kind, into: memory, streams: streams)
        try FaultingThread(memory.pages, order: Array(0..<memory.guest.pageCount)).join().check()
    }

    @Test(arguments: WaitMode.extremes)
    func theBareResolverBringsTheSourcesPages(mode: WaitMode) throws {
        let image = try BenchmarkImage(lengthBytes: 1 << 20)
        let memory = try TwiceMappedMemory(lengthBytes: 1 << 20)
        try memory.rearm()
        let resolver = try BareResolver(memory, source: image.mapped(), kind: .unix, mode: mode)
        let guests = (0..<4).map { number in
            FaultingThread(memory.pages, order: Array(stride(from: number, to: memory.guest.pageCount, by: 4)))
        }
        for guest in guests { try guest.join().check() }
        resolver.stop()
    }

    /// Without this a session that brings nothing would pass for a fast one.
    @Test func aPageNobodyFilledIsNoticed() throws {
        let memory = try TwiceMappedMemory(lengthBytes: 1 << 20)
        try memory.rearm()
        let order = Array(0..<memory.guest.pageCount)
        _ = try UserfaultFloor.measure(memory, order: order, mode: .busy)
        #expect(throws: BenchmarkError.self) { try FaultingThread(memory.pages, order: order).join().check() }
    }

    @Test func randomOrdersTouchEachPageOnce() {
        let order = TouchOrder.random(pageCount: 1_024, count: 64, stride: 16, seed: 7)
        #expect(Set(order.map { $0 / 16 }).count == 64)
        #expect(order == TouchOrder.random(pageCount: 1_024, count: 64, stride: 16, seed: 7))
        #expect(order != TouchOrder.random(pageCount: 1_024, count: 64, stride: 16, seed: 8))
    }

    @Test func threadsOfOneMemoryShareItsPagesWithoutOverlap() throws {
        let parts = PatternedMemoryParts([try TwiceMappedMemory(lengthBytes: 1 << 20), try TwiceMappedMemory(lengthBytes: 1 << 20)])
        #expect((0..<5).map { parts.sharers(of: $0, threads: 5).count } == [3, 2, 3, 2, 3])
        #expect((0..<5).map { parts.sharers(of: $0, threads: 5).index } == [0, 0, 1, 1, 2])
    }
}
