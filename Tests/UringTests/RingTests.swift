import CShims
import Glibc
import TestSupport
import Testing

@testable import Uring

@Suite(.leavesNothing) struct RingTests {
    @Test func completesEachOperationOnce() throws {
        var ring = try Ring(entries: 8, completionEntries: 64)
        for token in 1...40 { try ring.nop(token: UInt64(token)) }  // five times the queue: it submits by itself
        var tokens: [UInt64] = []
        while tokens.count < 40 {
            try ring.submitAndWait(minimum: 1, timeoutNanoseconds: 5_000_000_000)
            let drained = ring.drain { tokens.append($0.token) }
            try #require(drained > 0)
        }
        #expect(tokens.sorted() == Array(1...40).map { UInt64($0) })
        try ring.submitAndCollect()
        #expect(ring.drain { _ in Issue.record("a completion came twice") } == 0)
    }

    @Test func batchesGoIntoAFixedBuffer() throws {
        var ring = try Ring(entries: 16, completionEntries: 32)
        var buffer = CompletionBuffer(capacity: 3)
        for token in 0..<7 { try ring.nop(token: UInt64(token)) }
        try ring.submitAndWait(minimum: 7, timeoutNanoseconds: 5_000_000_000)
        var sizes: [Int] = []
        var tokens: [UInt64] = []
        while ring.take(into: &buffer) > 0 {
            sizes.append(buffer.count)
            for index in 0..<buffer.count { tokens.append(buffer[index].token) }
        }
        #expect(sizes == [3, 3, 1])
        #expect(tokens == [0, 1, 2, 3, 4, 5, 6])
    }

    @Test func aWaitEndsWithItsTime() throws {
        var ring = try Ring(entries: 4, completionEntries: 8)
        #expect(try ring.submitAndWait(minimum: 1, timeoutNanoseconds: 2_000_000) == false)
        #expect(try ring.submitAndWait(minimum: 1, timeoutNanoseconds: 0) == false)
        #expect(ring.hasWork == false)
    }

    @Test func theRingBelongsToItsFirstUser() throws {
        // Made here, used on another thread: allowed, since nothing was submitted here.
        final class Box: @unchecked Sendable { var outcome: Int32 = -1 }
        struct Parcel: ~Copyable { var ring: Ring }
        let box = Box()
        let parcel = UnsafeMutablePointer<Parcel>.allocate(capacity: 1)
        parcel.initialize(to: Parcel(ring: try Ring(entries: 4, completionEntries: 8)))
        try onThread { [address = UInt(bitPattern: parcel)] in
            let parcel = UnsafeMutablePointer<Parcel>(bitPattern: address)!
            do {
                try parcel.pointee.ring.nop(token: 7)
                try parcel.pointee.ring.submitAndWait(minimum: 1, timeoutNanoseconds: 5_000_000_000)
                parcel.pointee.ring.drain { box.outcome = Int32($0.token) }
            } catch { box.outcome = -2 }
        }
        #expect(box.outcome == 7)
        if parcel.pointee.ring.setUpFlags & IORING_SETUP_SINGLE_ISSUER != 0 {
            try parcel.pointee.ring.nop(token: 8)
            #expect(throws: UringError.wrongThread) { try parcel.pointee.ring.submit() }
        }
        parcel.deinitialize(count: 1)
        parcel.deallocate()
    }

    @Test func multishotPollReportsEachChange() throws {
        var ring = try Ring(entries: 4, completionEntries: 8)
        let event = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        try #require(event >= 0)
        defer { close(event) }
        try ring.pollMultishot(event, events: UInt32(POLLIN), token: 5)
        for _ in 0..<3 {
            #expect(eventfd_write(event, 1) == 0)
            #expect(try ring.submitAndWait(minimum: 1, timeoutNanoseconds: 5_000_000_000))
            var seen: [Completion] = []
            ring.drain { seen.append($0) }
            #expect(seen.map(\.token) == [5])
            #expect(seen.allSatisfy { $0.hasMore && $0.result & Int32(POLLIN) != 0 })
            var value: eventfd_t = 0
            #expect(eventfd_read(event, &value) == 0)
        }
        try ring.pollRemove(5, token: 6)
        try ring.submitAndWait(minimum: 2, timeoutNanoseconds: 5_000_000_000)
        var results: [UInt64: Int32] = [:]
        ring.drain { results[$0.token] = $0.result }
        #expect(results == [5: -ECANCELED, 6: 0])
    }

    @Test func sendsAndReceivesAndCancels() throws {
        var pair: [Int32] = [0, 0]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0)
        defer { pair.forEach { close($0) } }
        var ring = try Ring(entries: 8, completionEntries: 16)
        var out: [UInt8] = [1, 2, 3]
        var into = [UInt8](repeating: 0, count: 8)
        try out.withUnsafeMutableBytes { out in
            try into.withUnsafeMutableBytes { into in
                try ring.receive(pair[1], into: into, token: 1)
                try ring.send(pair[0], UnsafeRawBufferPointer(out), token: 2)
                try ring.submitAndWait(minimum: 2, timeoutNanoseconds: 5_000_000_000)
                var results: [UInt64: Int32] = [:]
                ring.drain { results[$0.token] = $0.result }
                #expect(results == [1: 3, 2: 3])
                try ring.receive(pair[1], into: into, token: 3)
                try ring.cancelAll(token: 4)
                try ring.submitAndWait(minimum: 2, timeoutNanoseconds: 5_000_000_000)
                results = [:]
                ring.drain { results[$0.token] = $0.result }
                #expect(results[3] == -ECANCELED)
            }
        }
        #expect(into.prefix(3) == [1, 2, 3])
    }

    @Test func theProbeSaysWhatTheKernelCan() throws {
        let support = try RingSupport.probe()
        #expect(support.isSufficient)
        #expect(RingSupport.disabledSetting() == 0)
    }

    @Test func errorsSayHowToMend() {
        #expect(UringError.forbidden(disabledSetting: 2).description.contains("kernel.io_uring_disabled is 2"))
        #expect(UringError.forbidden(disabledSetting: 0).description.contains("seccomp"))
        #expect(UringError.missing.description.contains("seccomp"))
        let all: [UringError] = [
            .missing, .forbidden(disabledSetting: 1), .forbidden(disabledSetting: nil), .noResources(errno: ENOMEM),
            .setUpFailed(errno: EINVAL),
            .queueFull, .submitFailed(errno: EINVAL), .wrongThread,
        ]
        for error in all { #expect(!error.description.contains("\n") && error.description.contains(";")) }
    }
}

/// Runs `body` on a thread of its own and waits for its end.
private func onThread(_ body: @escaping @Sendable () -> Void) throws {
    final class Work { let body: @Sendable () -> Void; init(_ body: @escaping @Sendable () -> Void) { self.body = body } }
    var thread = pthread_t()
    let status = pthread_create(
        &thread, nil,
        { argument in
            Unmanaged<Work>.fromOpaque(argument!).takeRetainedValue().body()
            return nil
        }, Unmanaged.passRetained(Work(body)).toOpaque())
    try #require(status == 0)
    pthread_join(thread, nil)
}
