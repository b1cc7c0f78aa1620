import CPageFerry
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing

/// Sessions from C over sockets that the caller has connected: who owns them when, and where they may lead.
@Suite(.leavesNothing, .serialized, .enabled(if: canRegisterMemory)) struct AdoptionTests {
    private func pairs(_ count: Int) throws -> (source: [Int32], destination: [Int32]) {
        var ends: (source: [Int32], destination: [Int32]) = ([], [])
        for _ in 0..<count {
            var pair: [Int32] = [-1, -1]
            try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair) == 0)
            ends.source.append(pair[0])
            ends.destination.append(pair[1])
        }
        return ends
    }

    /// What is behind descriptors: their numbers may be given anew at any time.
    private func identities(_ descriptors: [Int32]) -> [UInt64] {
        descriptors.map { descriptor in
            var status = stat()
            return fstat(descriptor, &status) == 0 ? UInt64(status.st_ino) : 0
        }
    }

    private func text() -> String {
        var buffer = [CChar](repeating: 0, count: 1024)
        _ = pageferry_error_text(&buffer, buffer.count)
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Waits for an event of a kind; its status, or nil when it did not come.
    private func wait(_ handle: Int64, for kind: pageferry_event_kind) -> Int32? {
        var event = pageferry_event()
        event.size = UInt32(MemoryLayout<pageferry_event>.size)
        while pageferry_next_event(handle, 60_000, &event) == 1 {
            if event.kind == Int32(kind.rawValue) { return event.status }
        }
        return nil
    }

    @Test(arguments: [1, 3]) func aWholeSession(_ count: Int) throws {
        let memories = try LibraryMemories()
        let ends = try pairs(count)
        let before = identities(ends.source + ends.destination)
        let source = memories.openSource(ends.source)
        try #require(source > 0, "\(text())")
        let destination = memories.openDestination(ends.destination)
        try #require(destination > 0, "\(text())")
        for (now, before) in zip(identities(ends.source + ends.destination), before) { #expect(now != before, "they are the library's") }
        for page in 0..<256 { #expect(memories.isRight(page: page)) }
        #expect(wait(destination, for: PAGEFERRY_EVENT_ENDED) == 0)
        #expect(wait(source, for: PAGEFERRY_EVENT_ENDED) == 0)
        #expect(pageferry_source_address(source, nil, 0) == 1, "it listens nowhere")
        #expect(pageferry_close(destination) == 0 && pageferry_close(source) == 0)
    }

    /// The link is lost, and each side is given new sockets; one that was not told to look for its source ends.
    @Test func aLostLinkGoesOnOverOthers() throws {
        let memories = try LibraryMemories()
        let ends = try pairs(1)
        let cut = dup(ends.source[0])
        defer { close(cut) }
        let source = memories.openSource(ends.source)
        let destination = memories.openDestination(ends.destination) { options in
            options.give_up_after_seconds = -1
            options.no_push = 1
        }
        try #require(source > 0 && destination > 0, "\(text())")
        #expect(memories.isRight(page: 3))
        shutdown(cut, Int32(SHUT_RDWR))
        #expect(wait(destination, for: PAGEFERRY_EVENT_PAUSED) != nil)
        let others = try pairs(2)
        let before = identities(others.source + others.destination)
        #expect(pageferry_destination_adopt(destination, others.destination, 2) == 0, "\(text())")
        #expect(pageferry_source_adopt(source, others.source, 2) == 0, "\(text())")
        for (now, before) in zip(identities(others.source + others.destination), before) { #expect(now != before) }
        #expect(memories.isRight(page: 200))
        #expect(wait(destination, for: PAGEFERRY_EVENT_RESTORED) != nil)
        #expect(wait(source, for: PAGEFERRY_EVENT_RESTORED) != nil)
        #expect(pageferry_close(destination) == 0 && pageferry_close(source) == 0)
    }

    @Test func withoutPatienceTheSessionEndsWithItsLink() throws {
        let memories = try LibraryMemories()
        let ends = try pairs(1)
        let cut = dup(ends.source[0])
        defer { close(cut) }
        let source = memories.openSource(ends.source)
        let destination = memories.openDestination(ends.destination) { $0.no_push = 1 }
        try #require(source > 0 && destination > 0, "\(text())")
        let others = try pairs(1)
        #expect(pageferry_destination_adopt(destination, others.destination, 1) == PAGEFERRY_ERROR_ARGUMENT.rawValue)
        #expect(text().contains("ends with its link"), "\(text())")
        for end in others.source + others.destination { close(end) }
        shutdown(cut, Int32(SHUT_RDWR))
        #expect(wait(destination, for: PAGEFERRY_EVENT_ENDED) == PAGEFERRY_ERROR_LINK.rawValue)
        #expect(pageferry_close(destination) == 0 && pageferry_close(source) == 0)
    }

    /// Both ends of a TCP connection between addresses that are not loopback's, in a network namespace of its own.
    private func connectionBeyondThisHost() throws -> [Int32] {
        let ends = Mutex<[Int32]>([])
        let isOver = DispatchSemaphore(value: 0)
        // The namespace is the thread's, and its sockets'. unshare(2) is not imported; its flag is CLONE_NEWNET.
        let unshare = unsafeBitCast(try #require(dlsym(nil, "unshare")), to: (@convention(c) (Int32) -> Int32).self)
        Thread.detachNewThread {
            defer { isOver.signal() }
            guard unshare(0x4000_0000) == 0, system("ip link set lo up && ip address add 192.0.2.1/32 dev lo") == 0 else { return }
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = inet_addr("192.0.2.1")
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            let client = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            withUnsafeMutablePointer(to: &address) { address in
                address.withMemoryRebound(to: sockaddr.self, capacity: 1) { form in
                    guard bind(listener, form, length) == 0, listen(listener, 1) == 0, getsockname(listener, form, &length) == 0,
                        connect(client, form, length) == 0
                    else { return }
                    ends.withLock { $0 = [accept(listener, nil, nil), client] }
                }
            }
            close(listener)
        }
        isOver.wait()
        return try ends.withLock { ends in
            try #require(ends.count == 2 && ends[0] >= 0)
            return ends
        }
    }

    @Test(.enabled(if: geteuid() == 0 && access("/sbin/ip", X_OK) == 0)) func memoryDoesNotLeaveTheHostUnprotected() throws {
        let memories = try LibraryMemories()
        let ends = try connectionBeyondThisHost()
        #expect(memories.openSource([ends[0]]) == Int64(PAGEFERRY_ERROR_TRUST.rawValue) && text().contains("in the clear"), "\(text())")
        #expect(memories.openDestination([ends[1]]) == Int64(PAGEFERRY_ERROR_TRUST.rawValue), "\(text())")
        var insecure = pageferry_security()
        insecure.insecure = 1
        try withUnsafePointer(to: &insecure) { insecure in
            let source = memories.openSource([ends[0]]) { $0.security = insecure }
            let destination = memories.openDestination([ends[1]]) { $0.security = insecure }
            try #require(source > 0 && destination > 0, "\(text())")
            #expect(memories.isRight(page: 100))
            #expect(pageferry_close(destination) == 0 && pageferry_close(source) == 0)
        }
    }

    /// What fails leaves the caller its descriptors.
    @Test func whatFailsTakesNothing() throws {
        let memories = try LibraryMemories()
        let ends = try pairs(2)
        defer { for end in ends.source + ends.destination { close(end) } }
        let before = identities(ends.source + ends.destination)
        func expect(_ answer: some BinaryInteger, _ error: pageferry_error, _ words: String, location: SourceLocation = #_sourceLocation) {
            #expect(answer == Int(error.rawValue) && text().contains(words), "\(text())", sourceLocation: location)
            #expect(identities(ends.source + ends.destination) == before, sourceLocation: location)
        }
        expect(memories.openSource([]), PAGEFERRY_ERROR_ARGUMENT, "no descriptors")
        expect(memories.openDestination([]), PAGEFERRY_ERROR_ARGUMENT, "no descriptors")
        expect(memories.openSource([ends.source[0], ends.source[0]]), PAGEFERRY_ERROR_ARGUMENT, "twice")
        expect(memories.openSource(ends.source + [memories.file.rawValue]), PAGEFERRY_ERROR_ARGUMENT, "no stream socket")
        expect(memories.openSource(ends.source) { $0.adopted_count = 17 }, PAGEFERRY_ERROR_ARGUMENT, "17 descriptors")
        expect(memories.openSource(ends.source) { $0.adopted_descriptors = nil }, PAGEFERRY_ERROR_ARGUMENT, "2 descriptors")
        expect(memories.openSource(ends.source) { $0.region_count = 0 }, PAGEFERRY_ERROR_ARGUMENT, "0 regions")
        expect(memories.openSource(ends.source) { $0.transport = 7 }, PAGEFERRY_ERROR_ARGUMENT, "transport is 7")
        expect(memories.openSource(ends.source) { $0.size = 44 }, PAGEFERRY_ERROR_ARGUMENT, "sizeof")
        // The session begins, and memory here and there differ.
        let source = memories.openSource([dup(ends.source[0])])
        try #require(source > 0, "\(text())")
        expect(
            memories.openDestination([ends.destination[0]]) { options in
                UnsafeMutablePointer(mutating: options.regions)!.pointee.length_bytes = 4096
            }, PAGEFERRY_ERROR_MISMATCH, "memory region")
        #expect(wait(source, for: PAGEFERRY_EVENT_REFUSED) != nil)
        #expect(pageferry_close(source) == 0)
        expect(pageferry_source_adopt(source, ends.source, 1), PAGEFERRY_ERROR_HANDLE, "no open handle")
        expect(pageferry_destination_adopt(source, ends.source, 1), PAGEFERRY_ERROR_HANDLE, "no open handle")
    }
}
