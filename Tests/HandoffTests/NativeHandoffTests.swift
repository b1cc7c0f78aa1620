import CShims
import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

@Suite("Native hand-off", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct NativeHandoffTests {
    @Test("This user, the socket's owner and root may hand memory over, nobody else")
    func permittedUsers() {
        #expect(HandoffListener.permits(user: 1000, owner: nil, ownUser: 1000))
        #expect(HandoffListener.permits(user: 1001, owner: 1001, ownUser: 1000))
        #expect(HandoffListener.permits(user: 0, owner: 1001, ownUser: 1000))
        #expect(!HandoffListener.permits(user: 1001, owner: nil, ownUser: 1000))
        #expect(!HandoffListener.permits(user: 1002, owner: 1001, ownUser: 1000))
        #expect(!HandoffListener.permits(user: 1001, owner: nil, ownUser: 0))
    }

    @Test("Shared and anonymous memory go over, and faults are served from the other end")
    func bothKinds() throws {
        let path = socketPath("both")
        let listener = try HandoffListener(path: path)
        var status = stat()
        #expect(stat(path, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
        let client = Runner { () -> [UInt8]? in
            guard let file = try? MemoryFile.create(name: "guest", lengthBytes: 16 * 4096),
                let shared = try? MappedMemory(of: file, offset: 4096, lengthBytes: 8 * 4096, access: .readWrite),
                let anonymous = try? MappedMemory(anonymousBytes: 4 * 4096),
                var client = try? HandoffClient(path: path),
                let first = try? client.handOver(name: "ram", memory: shared, file: file, fileOffset: 4096),
                let second = try? client.handOver(name: "scratch", anonymous: anonymous),
                (try? client.ready()) != nil
            else { return nil }
            defer { withExtendedLifetime((first.rawValue, second.rawValue)) {} }
            return [(shared.pointer + 3 * 4096).load(as: UInt8.self), (anonymous.pointer + 4096).load(as: UInt8.self)]
        }
        let connection = try listener.accept(timeoutNanoseconds: 10 * seconds)
        #expect(connection.peer.processIdentifier == getpid())
        let regions = try connection.receiveRegions(timeoutNanoseconds: 10 * seconds)
        #expect(regions.count == 2)
        #expect(regions[0].name == "ram")
        #expect(regions[0].kind == .shared)
        #expect(regions[0].fileOffset == 4096)
        #expect(regions[0].lengthBytes == 8 * 4096)
        #expect(regions[1].kind == .anonymous)
        #expect(regions[1].modes == .missing)
        #expect(regions[1].userfaultOf == 1)
        #expect(try regions.layout().regions.map(\.name) == ["ram", "scratch"])
        try connection.acknowledge()

        guard let memory = try regions[0].mapFile() else {
            Issue.record("a shared region is mapped")
            return
        }
        var batch = UserfaultEventBatch()
        #expect(try regions[0].userfault.waitForEvents(timeoutMilliseconds: 10_000))
        try regions[0].userfault.readEvents(into: &batch)
        #expect(batch[0] == .pageFault(address: regions[0].address + 3 * 4096, access: []))
        memset(memory.pointer + 3 * 4096, 0x61, 4096)
        #expect(
            regions[0].userfault.continueRange(address: regions[0].address + 3 * 4096, lengthBytes: 4096, pageSize: .fourKiB)
                == .installed)
        let source = try MappedMemory(anonymousBytes: 4 * 4096)
        memset(source.pointer, 0x62, 4 * 4096)
        #expect(
            regions[1].userfault.copy(
                source: source.address, address: regions[1].address, lengthBytes: 4 * 4096, pageSize: .fourKiB) == .installed)
        #expect(client.join() == [0x61, 0x62])
        #expect(try connection.waitForEnd(timeoutMilliseconds: 10_000))
    }

    @Test("A daemon that takes over gets the same memory once more, one that waits for fresh memory does not")
    func again() throws {
        let path = socketPath("again")
        let memory = try MappedMemory(anonymousBytes: 2 * 4096)
        let address = memory.address
        func serve(again: Bool) throws -> Runner<HandoffError?> {
            let listener = try HandoffListener(path: path)
            let box = HandoffBox(listener)
            return Runner {
                do throws(HandoffError) {
                    let connection = try box.listener.accept(timeoutNanoseconds: 10 * seconds)
                    let regions = try connection.receiveRegions(again: again, timeoutNanoseconds: 10 * seconds)
                    #expect(regions.count == 1)
                    #expect(regions[0].address == address)
                    try connection.acknowledge()
                    return nil
                } catch {
                    return error
                }
            }
        }
        var daemon = try serve(again: false)
        var client = try HandoffClient(path: path)
        let userfault = try client.handOver(name: "ram", anonymous: memory)
        try client.ready()
        #expect(daemon.join() == .some(nil))
        #expect(try client.waitForEnd(timeoutMilliseconds: 10_000))
        #expect(throws: HandoffError.nobodyListens(path: path)) { try client.reattach() }
        daemon = try serve(again: false)
        #expect(throws: HandoffError.self) { try client.reattach() }
        #expect(daemon.join() == .wrongOccasion(isAgain: true))
        daemon = try serve(again: true)
        try client.reattach()
        #expect(daemon.join() == .some(nil))
        daemon = try serve(again: true)
        #expect(throws: HandoffError.self) { _ = try HandoffClient(path: path) }
        #expect(daemon.join() == .wrongOccasion(isAgain: false))
        withExtendedLifetime(userfault.rawValue) {}
    }

    @Test("The daemon's refusal reaches the VMM")
    func refusal() throws {
        let path = socketPath("refusal")
        let listener = try HandoffListener(path: path)
        let client = Runner { () -> HandoffError? in
            do throws(HandoffError) {
                guard let memory = try? MappedMemory(anonymousBytes: 4096) else { return nil }
                var client = try HandoffClient(path: path)
                _ = try client.handOver(name: "ram", anonymous: memory)
                try client.ready()
                return nil
            } catch {
                return error
            }
        }
        let connection = try listener.accept(timeoutNanoseconds: 10 * seconds)
        _ = try connection.receiveRegions(timeoutNanoseconds: 10 * seconds)
        try connection.refuse("the source has 2 regions")
        #expect(client.join() == .refused(status: 11, text: "the source has 2 regions"))
    }

    @Test("Time-outs: nobody connects, and nothing is said")
    func timeouts() throws {
        let path = socketPath("timeouts")
        let listener = try HandoffListener(path: path)
        #expect(throws: HandoffError.timedOut(step: "waiting for a VMM to connect to '\(path)'")) {
            _ = try listener.accept(timeoutNanoseconds: 20_000_000)
        }
        let client = try RawClient(path: path)
        let connection = try listener.accept(timeoutNanoseconds: seconds)
        #expect(throws: HandoffError.timedOut(step: "waiting for the VMM's hello")) {
            _ = try connection.receiveRegions(timeoutNanoseconds: 20_000_000)
        }
        #expect(try client.lastAnswer()?.status == 10)
    }

    @Test("A socket that is served is not taken, one left behind is, anything else is not")
    func paths() throws {
        let path = socketPath("paths")
        do {
            let listener = try HandoffListener(path: path)
            #expect(throws: HandoffError.alreadyListening(path: path)) { _ = try HandoffListener(path: path) }
            #expect(listener.path == path)
        }
        #expect(access(path, F_OK) != 0)
        #expect(throws: HandoffError.nobodyListens(path: path)) { _ = try HandoffClient(path: path) }

        // A process that died leaves its socket.
        let dead = try HandoffSocket.make()
        #expect(pageferry_unix_bind(dead.rawValue, path) == 0)
        #expect(throws: HandoffError.nobodyListens(path: path)) { _ = try HandoffClient(path: path) }
        let listener = try HandoffListener(path: path)
        #expect(access(path, F_OK) == 0)
        withExtendedLifetime(listener.path) {}

        let plain = socketPath("paths-plain")
        let file = open(plain, O_CREAT | O_RDWR, 0o600)
        defer {
            close(file)
            unlink(plain)
        }
        #expect(throws: HandoffError.notASocket(path: plain)) { _ = try HandoffListener(path: plain) }
        #expect(access(plain, F_OK) == 0)
        let long = "/tmp/" + String(repeating: "x", count: 200)
        #expect(throws: HandoffError.self) { _ = try HandoffListener(path: long) }
    }

    @Test("Regions may share one userfaultfd")
    func sharedUserfault() throws {
        let listener = try HandoffListener(path: socketPath("shared-fd"))
        let client = try RawClient(path: listener.path)
        let connection = try listener.accept(timeoutNanoseconds: seconds)
        let userfault = try UserfaultDescriptor(required: [])
        try client.hello()
        try client.region(message(address: 0x10000), [userfault.rawValue])
        try client.region(message(address: 0x20000, userfaultOf: 0), [])
        try client.region(message(address: 0x30000, userfaultOf: 1), [])
        try client.ready(3)
        let regions = try connection.receiveRegions(timeoutNanoseconds: 5 * seconds)
        #expect((0..<3).map { regions[$0].userfaultOf } == [0, 0, 0])
    }
}

/// A region of one anonymous page, right but for what is given.
func message(
    name: String = "ram", address: UInt64 = 0x10000, lengthBytes: UInt64 = 4096, fileOffset: UInt64 = 0,
    pageSizeBytes: UInt32 = 4096, kind: UInt16 = 0, modes: UInt16 = 1, userfaultOf: UInt16 = HandoffProtocol.ownUserfault
) -> HandoffRegionMessage {
    HandoffRegionMessage(
        name: name, address: address, lengthBytes: lengthBytes, fileOffset: fileOffset, pageSizeBytes: pageSizeBytes, kind: kind,
        modes: modes, userfaultOf: userfaultOf)
}
