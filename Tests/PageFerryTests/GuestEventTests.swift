import Foundation
import Glibc
import PageCore
import PageEngine
import PageWire
import StreamTransport
import Synchronization
import TestSupport
import Testing
import Userfault

@testable import PageFerry

/// What a VMM does to its memory while its pages come: gives it up, unmaps it, moves it, forks, dies. On the real kernel.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct GuestEventTests {
    private static let pages = 4096

    /// A run of pages is replaced by another mapping before anything came, or while everything comes.
    @Test(arguments: [GuestKind.shared, .anonymous], [true, false]) func unmapping(_ kind: GuestKind, _ isEarly: Bool) throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "unmapping", startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(kind, pages: Self.pages, events: .unmapEvents)
        let destination = try LocalDestination(guest, from: source.address)
        if !isEarly { source.guestStopped() }
        var gone = Set<Int>()
        for first in stride(from: 100, to: Self.pages, by: 400) {
            let range = first..<(first + 37)
            let address = UnsafeMutableRawPointer(guest.words.base) + first * 4096
            // Returns once the session has read the event.
            let replaced = mmap(address, range.count * 4096, PROT_READ, Int32(MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS), -1, 0)
            #expect(replaced == address)
            gone.formUnion(range)
        }
        let readers = (0..<Self.pages).filter { !gone.contains($0) }
        if isEarly { source.guestStopped() }
        #expect(readers.allSatisfy { guest.words.isRight($0) }, "what is left comes as ever")
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.allSatisfy { guest.words.isRight($0) })
        #expect(gone.allSatisfy { guest.words.isRight($0, .zero) }, "nothing of the session is in the new mapping")
        #expect(try #require(source.nextEnd()).reason == nil)
    }

    /// Memory that moves cannot be followed: the session says so, and whoever waits is not fed zeros.
    @Test(arguments: [GuestKind.shared, .anonymous]) func remapping(_ kind: GuestKind) throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "remapping", startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(kind, pages: Self.pages, events: .remapEvents)
        let destination = try LocalDestination(guest, from: source.address)
        let waiting = WaitingThread(guest, page: try #require((1000..<Self.pages).first { !Content.isZero($0) }))
        let lengthBytes = 64 * 4096
        let target = try #require(mmap(nil, lengthBytes, PROT_NONE, Int32(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0))
        let moved = UnsafeMutableRawPointer(guest.words.base) + 200 * 4096
        #expect(KernelCalls.remap(moved, lengthBytes, lengthBytes, KernelCalls.remapAndKeepMapping, target) == target)
        guard case .memory(let text)? = try destination.end() else {
            Issue.record("a session cannot follow memory that moves")
            return
        }
        #expect(text.contains("moved its guest memory"))
        #expect(waiting.sawContent == nil, "a thread stays frozen: it is never fed zeros")
        guard case .peerFailed? = try #require(source.nextEnd()).reason else {
            Issue.record("the source is told")
            return
        }
        try? guest.userfault.unregister(address: UInt(bitPattern: target), lengthBytes: lengthBytes)
        guest.release()
        waiting.join()
        munmap(target, lengthBytes)
    }

    /// Children come and go; the parent's pages come as ever, and no descriptor of a child is left.
    @Test(arguments: [GuestKind.shared, .anonymous]) func forking(_ kind: GuestKind) throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "forking", startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(kind, pages: Self.pages, events: .forkEvents)
        let destination = try LocalDestination(guest, from: source.address)
        let before = userfaultCount()
        // Looked up before the first fork: a child takes no lock.
        let exit = KernelCalls.exit
        for round in 0..<24 {
            if round == 8 { source.guestStopped() }
            // Returns once the session has read the event.
            let child = KernelCalls.fork()
            if child == 0 { exit(0) }
            try #require(child > 0)
            var status: Int32 = 0
            #expect(waitpid(child, &status, 0) == child && status == 0, "the child ends by itself")
        }
        #expect(userfaultCount() <= before)
        let readers = guest.startReaders(count: 2, seed: 3)
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        #expect(try #require(source.nextEnd()).reason == nil)
    }

    private func userfaultCount() -> Int {
        let folder = "/proc/self/fd"
        let entries = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        return entries.count {
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\($0)")) == "anon_inode:[userfaultfd]"
        }
    }

    /// The process whose memory it is dies before its pages come, or while they come: both sides end, and say why.
    @Test(arguments: [GuestKind.shared, .anonymous], [true, false]) func dying(_ kind: GuestKind, _ isEarly: Bool) throws {
        // Large enough not to be over before the process is dead.
        let pages = 65_536
        let source = try LocalSource(try makeImage(pages: pages), name: "dying", startsAtOnce: false)
        defer { source.stop() }
        // The child's userfaultfd comes with the event of its birth: its memory is handed over, not this process's.
        let guest = try Guest(kind, pages: pages, events: .forkEvents)
        let birth = Mutex<Int32>(0)
        let forking = DedicatedThread(name: "forking") {
            let child = KernelCalls.fork()
            if child == 0 {
                // Should the test end before it is killed.
                alarm(60)
                while true { pause() }
            }
            birth.withLock { $0 = child }
        }
        var events = UserfaultEventBatch()
        try #require(try guest.userfault.waitForEvents(timeoutMilliseconds: 30_000))
        try #require(try guest.userfault.readEvents(into: &events) == 1)
        guard case .fork(let descriptor) = events[0] else {
            Issue.record("the event is a fork")
            return
        }
        forking.join()
        let child = birth.withLock { $0 }
        try #require(child > 0)
        let destination = try LocalDestination(guest, from: source.address, child: descriptor)
        if !isEarly {
            source.guestStopped()
            #expect(poll { destination.session.statistics.read().missingPages < pages })
        }
        kill(child, SIGKILL)
        var status: Int32 = 0
        #expect(waitpid(child, &status, 0) == child)
        if isEarly { source.guestStopped() }
        #expect(try destination.end() == .processEnded)
        guest.release()
        guard case .peerFailed(let failure)? = try #require(source.nextEnd()).reason else {
            Issue.record("the source is told")
            return
        }
        #expect(failure.code == .virtualMachine && failure.text.contains("has ended"))
    }

    /// Its end is told when the last page has just come: nothing was lost, and the session ends well.
    @Test func dyingWithEveryPage() throws {
        let pages = 64
        let guest = try Guest(.shared, pages: pages)
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
        let hasReported = Mailbox<Bool>()
        let isTold = Mailbox<Bool>()
        let source = try RawSource(name: "last", layout: layout, laneCount: 1) { lanes in
            lanes[0].write(FrameHeader(.guestStopped))
            lanes[0].write(FrameHeader(.zeroPages, reason: .push, range: PageRange(region: 0, first: 0, count: pages)))
            lanes[0].write(FrameHeader(.allSent))
            while let frame = lanes[0].readFrame(), frame.header.kind != .allResident {}
            hasReported.post(true)
            _ = isTold.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 30_000_000_000)
            // What was told before this is known by its answer.
            lanes[0].write(FrameHeader(.ping, argument: 7))
            while let frame = lanes[0].readFrame(), frame.header.kind != .pong {}
            lanes[0].write(FrameHeader(.farewell))
        }
        let destination = try LocalDestination(guest, from: .unix(path: source.path), bulkLanes: 0)
        #expect(hasReported.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 30_000_000_000) == true)
        destination.session.end(.processEnded)
        isTold.post(true)
        #expect(try destination.end() == nil)
        guest.release()
    }

    /// Threads that give pages up without end, others that touch them, and pages that come: nobody hangs, what was given up
    /// stays so, and memory does not grow with the events.
    @Test(arguments: [GuestKind.shared, .anonymous]) func floodOfRemovals(_ kind: GuestKind) throws {
        let removers = 4
        let removals = 2_000
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "flood", startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(kind, pages: Self.pages)
        let destination = try LocalDestination(guest, from: source.address)
        let before = anonymousKiB()
        let removed = Mutex(Set<Int>())
        let wrong = Atomic<Int>(0)
        let isOver = Atomic<Bool>(false)
        let threads = (0..<removers).map { number in
            DedicatedThread(name: "remover\(number)") {
                var random = SeededRandom(seed: UInt64(number))
                let share = Self.pages / removers
                var mine = Set<Int>()
                for _ in 0..<removals {
                    let first = number * share + random.next(below: share - 8)
                    let range = first..<(first + 1 + random.next(below: 8))
                    if !guest.remove(range) || !guest.words.isRight(first, .zero) { wrong.add(1, ordering: .relaxed) }
                    mine.formUnion(range)
                }
                removed.withLock { $0.formUnion(mine) }
            }
        }
        let readers = (0..<2).map { number in
            DedicatedThread(name: "reader\(number)") {
                var random = SeededRandom(seed: UInt64(100 + number))
                while !isOver.load(ordering: .acquiring) {
                    let page = random.next(below: Self.pages)
                    if !guest.words.isRight(page) && !guest.words.isRight(page, .zero) { wrong.add(1, ordering: .relaxed) }
                }
            }
        }
        source.guestStopped()
        // Pages that were removed keep the session from its end only as long as they are removed anew.
        for thread in threads { thread.join() }
        let grown = anonymousKiB() - before
        isOver.store(true, ordering: .releasing)
        #expect(try destination.end() == nil)
        guest.release()
        for thread in readers { thread.join() }
        #expect(wrong.load(ordering: .acquiring) == 0)
        let gone = removed.withLock { $0 }
        #expect((0..<Self.pages).allSatisfy { guest.words.isRight($0, gone.contains($0) ? .zero : .content) })
        #expect(grown < 64 << 10, "\(grown) KiB for \(removers * removals) removals")
    }

    /// Pages are freed in the memory's file while they come, also between their arrival and their installation: what they hold is
    /// nobody's concern any more, and the session goes on.
    @Test(arguments: [GuestKind.shared, .hugePages]) func holesWithoutEvents(_ kind: GuestKind) throws {
        let pages = kind == .hugePages ? 64 : Self.pages
        var reserve: HugePageReserve?
        if kind == .hugePages {
            // A freed page has no reservation any more, and may still be held while another takes its place.
            reserve = HugePageReserve(count: 3 * pages)
            if reserve == nil { return }
        }
        let source = try LocalSource(try makeImage(pages: pages, pageSize: kind.pageSize), name: "holes", startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: source.address)
        let wrong = Atomic<Int>(0)
        let isOver = Atomic<Bool>(false)
        let punchers = (0..<3).map { number in
            DedicatedThread(name: "puncher\(number)") {
                var random = SeededRandom(seed: UInt64(number))
                while !isOver.load(ordering: .acquiring) {
                    let first = random.next(below: pages - 8)
                    do { try guest.punch(first..<(first + 1 + random.next(below: 8))) } catch { wrong.add(1, ordering: .relaxed) }
                }
            }
        }
        let reader = DedicatedThread(name: "reader") {
            var random = SeededRandom(seed: 6)
            while !isOver.load(ordering: .acquiring) {
                if !guest.words.isRightOrFreed(random.next(below: pages)) { wrong.add(1, ordering: .relaxed) }
            }
        }
        source.guestStopped()
        let reason = try destination.end()
        isOver.store(true, ordering: .releasing)
        guest.release()
        for puncher in punchers { puncher.join() }
        reader.join()
        #expect(reason == nil)
        #expect(wrong.load(ordering: .acquiring) == 0)
        #expect((0..<pages).allSatisfy { guest.words.isRightOrFreed($0) })
        withExtendedLifetime(reserve.take()) {}
    }

    private func anonymousKiB() -> Int {
        var text = ""
        if let file = fopen("/proc/self/status", "r") {
            defer { fclose(file) }
            var line = [CChar](repeating: 0, count: 512)
            while fgets(&line, 512, file) != nil {
                text += String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            }
        }
        let field = text.split(separator: "\n").first { $0.hasPrefix("RssAnon:") }
        return field.flatMap { Int($0.split(separator: " ").dropFirst().first ?? "") } ?? 0
    }
}

/// Calls that Swift's importer leaves out: fork, which it forbids, and mremap, which is variadic.
enum KernelCalls {
    /// `_Fork`, which takes no lock of the library: the session that must read the event lives in this process too, and would
    /// wait for the allocator.
    ///
    /// - Returns: 0 in the child, which may do nothing but wait and end.
    static let fork = unsafeBitCast(dlsym(nil, "_Fork"), to: (@convention(c) () -> Int32).self)
    /// The C library's own `_exit`, for children of `fork`. The thread sanitizer puts one of its own before it, which calls
    /// the parent's threads leaks of the child, or waits for a lock that one of them held at the fork.
    static let exit = unsafeBitCast(
        dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "_exit"), to: (@convention(c) (Int32) -> Void).self)
    /// MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP (Linux 5.13 for shared memory): the pages go, and an empty mapping stays.
    /// In a hole the allocator of this very process may settle meanwhile, and would lose its memory with the guest's.
    static let remapAndKeepMapping: Int32 = 7
    static let remap = unsafeBitCast(
        dlsym(nil, "mremap"),
        to: (@convention(c) (UnsafeMutableRawPointer, Int, Int, Int32, UnsafeMutableRawPointer) -> UnsafeMutableRawPointer).self)
}
