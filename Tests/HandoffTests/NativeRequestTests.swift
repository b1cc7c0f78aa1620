import Glibc
import HostMemory
import PageCore
import PageFerry
import TestSupport
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

/// What a VMM may ask for while its memory is served, and everything that it may not.
@Suite(.leavesNothing, .serialized, .enabled(if: userfaultIsPermitted)) struct NativeRequestTests {
    private func pair(_ first: UInt32, _ second: UInt32 = 0) -> [UInt8] {
        var payload: [UInt8] = []
        payload.appendLittleEndian(first)
        payload.appendLittleEndian(second)
        return payload
    }

    private func send(_ client: borrowing RawClient, _ kind: HandoffMessageKind, _ payload: [UInt8], _ descriptors: [Int32] = []) throws {
        try client.socket.send(kind, payload, descriptors: descriptors, deadline: HandoffDeadline(timeoutNanoseconds: seconds))
    }

    private func next(_ connection: borrowing HandoffConnection) throws -> HandoffRequest? { try connection.nextRequest(regionCount: 2) }

    private func answer(_ client: borrowing RawClient) throws -> HandoffAnswer {
        guard let message = try client.socket.receive(deadline: HandoffDeadline(timeoutNanoseconds: 10 * seconds), step: "") else {
            throw HandoffError.connectionEnded(step: "before it had answered")
        }
        return try HandoffAnswer(message.payload)
    }

    /// Hands two regions over in `version`, and lets `body` go on after `ready`.
    private func serving(
        version: UInt32 = 2, _ body: (borrowing RawClient, borrowing HandoffConnection) throws -> Void
    ) throws {
        let listener = try HandoffListener(path: socketPath("requests"))
        let client = try RawClient(path: listener.path)
        let connection = try listener.accept(timeoutNanoseconds: seconds)
        let userfault = try UserfaultDescriptor(required: [])
        try client.hello(version: version)
        try client.region(message(name: "low", address: 0x10000), [userfault.rawValue])
        try client.region(message(name: "high", address: 0x20000, userfaultOf: 0), [])
        try client.ready(2)
        let regions = try connection.receiveRegions(takesRequests: true, timeoutNanoseconds: 5 * seconds)
        #expect(regions.count == 2)
        try connection.acknowledge()
        for _ in 0..<4 { #expect(try answer(client).status == 0) }
        #expect(connection.version == version)
        #expect(try next(connection) == nil)
        try body(client, connection)
    }

    @Test func aRegionIsAskedFor() throws {
        try serving { client, connection in
            for number in [1, 0, 1] as [UInt32] {
                try send(client, .remove, pair(number))
                for _ in 0..<3 { #expect(try next(connection) == .remove(RegionIndex(number)), "it waits until it is done") }
                try connection.finishRequest()
                #expect(try answer(client) == HandoffAnswer(status: 0, text: ""))
                #expect(try next(connection) == nil)
            }
            try connection.tellFinished()
            let message = try client.socket.receive(deadline: HandoffDeadline(timeoutNanoseconds: seconds), step: "")
            switch message {
            case .some(let message): #expect(message.kind == .finished)
            case .none: Issue.record("the VMM is told")
            }
            shutdown(client.socket.rawValue, Int32(SHUT_RDWR))
            #expect(try next(connection) == .ended)
        }
    }

    /// The status of a request that is not served.
    private func refusal(
        _ client: borrowing RawClient, _ connection: borrowing HandoffConnection, _ kind: HandoffMessageKind, _ payload: [UInt8],
        _ descriptors: [Int32] = []
    ) throws -> UInt32 {
        try send(client, kind, payload, descriptors)
        let request = try next(connection)
        #expect(request == nil)
        return try answer(client).status
    }

    @Test func whatCannotBeIsRefusedAndTheNextRequestIsServed() throws {
        let pipe = try UserfaultDescriptor(required: [])
        try serving { client, connection in
            #expect(try refusal(client, connection, .remove, pair(2)) == 13)
            #expect(try refusal(client, connection, .remove, pair(.max)) == 13)
            #expect(try refusal(client, connection, .remove, [0, 0, 0, 0]) == 2)
            #expect(try refusal(client, connection, .remove, pair(0) + [0]) == 2)
            #expect(try refusal(client, connection, .remove, pair(0), [pipe.rawValue]) == 2)
            #expect(
                try refusal(client, connection, .add, message(name: "more", address: 0x90000).encoded, [pipe.rawValue]) == 14,
                "the source has nothing of it")
            #expect(try refusal(client, connection, .region, message(name: "more", address: 0x90000).encoded, [pipe.rawValue]) == 2)
            for kind in [.hello, .ready, .answer, .finished] as [HandoffMessageKind] {
                #expect(try refusal(client, connection, kind, pair(2)) == 2)
            }
            try send(client, .remove, pair(1))
            #expect(try next(connection) == .remove(1))
        }
    }

    /// Bytes that are no message, and the beginning of one, count as the VMM's end: nothing waits for the rest of it for long.
    @Test func whatIsNoMessageIsTheEnd() throws {
        var random = SeededRandom(seed: 11)
        for _ in 0..<50 {
            let bytes = (0..<(16 + random.next(below: 100))).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            try serving { client, connection in
                client.raw(bytes)
                let request = try next(connection)
                #expect(request == .ended)
            }
        }
        try serving { client, connection in
            client.raw([0x50, 0x47, 0x46])
            let request = try next(connection)
            #expect(request == .ended)
        }
    }

    /// A VMM that asks without end and reads no answer ends as one that has gone; no time or memory is lost over it.
    @Test func aFlood() throws {
        try serving { client, connection in
            let box = HandoffSocket(adopting: dup(client.socket.rawValue))
            let flooder = Runner { [descriptor = dup(box.rawValue)] in
                let socket = HandoffSocket(adopting: descriptor)
                var sent = 0
                while sent < 100_000,
                    (try? socket.send(.remove, self.pair(9), deadline: HandoffDeadline(timeoutNanoseconds: 3 * seconds))) != nil
                {
                    sent += 1
                }
                return sent
            }
            var handled = 0
            while try next(connection) != .ended { handled += 1 }
            #expect(handled > 0 && handled < 100_000)
            shutdown(client.socket.rawValue, Int32(SHUT_RDWR))
            #expect(try #require(flooder.join()) < 100_000)
        }
    }

    @Test func aVMMOfVersion1AsksForNothing() throws {
        try serving(version: 1) { client, connection in
            try connection.tellFinished()
            #expect(try client.lastAnswer() == nil, "it hears nothing that it does not know")
            try send(client, .remove, pair(0))
            #expect(try next(connection) == .ended)
        }
    }

    /// A client speaks with an older daemon as that one does, and says what it cannot do then.
    @Test(arguments: [false, true]) func theNewestCommonVersionIsSpoken(_ takesRequests: Bool) throws {
        let path = socketPath("versions")
        let box = HandoffBox(try HandoffListener(path: path))
        let daemon = Runner { () -> [RegionIndex] in
            var asked: [RegionIndex] = []
            // An older daemon sends the first hello away.
            for attempt in 0..<(takesRequests ? 1 : 2) {
                guard let connection = try? box.listener.accept(timeoutNanoseconds: 10 * seconds),
                    let regions = try? connection.receiveRegions(takesRequests: takesRequests, timeoutNanoseconds: 10 * seconds)
                else { continue }
                #expect(attempt == (takesRequests ? 0 : 1))
                try? connection.acknowledge()
                while (try? connection.waitForEnd(timeoutMilliseconds: 10_000)) == true {
                    guard case .remove(let number)? = (try? connection.nextRequest(regionCount: regions.count)) ?? nil else { break }
                    asked.append(number)
                    try? connection.finishRequest()
                }
            }
            return asked
        }
        let memory = try MappedMemory(anonymousBytes: 4096)
        do {
            var client = try HandoffClient(path: path)
            let userfault = try client.handOver(name: "ram", anonymous: memory)
            try client.ready()
            #expect(client.version == (takesRequests ? 2 : 1))
            if takesRequests {
                try client.remove(0)
            } else {
                #expect(throws: HandoffError.self) { try client.remove(0) }
            }
            withExtendedLifetime(userfault.rawValue) {}
        }
        #expect(daemon.join() == (takesRequests ? [0] : []))
    }

    /// Memory that is handed over again keeps the places of what was taken out; memory that comes for the first time has none.
    @Test func handedOverAgain() throws {
        let userfault = try UserfaultDescriptor(required: [])
        func status(_ version: UInt32, again: Bool, _ descriptors: [Int32] = [], userfaultOf: UInt16 = HandoffProtocol.ownUserfault) throws
            -> UInt32?
        {
            let path = socketPath("again-removed")
            let listener = try HandoffListener(path: path)
            let client = try RawClient(path: path)
            let connection = try listener.accept(timeoutNanoseconds: seconds)
            try send(client, .hello, pair(version, again ? 1 : 0))
            try client.region(message(name: "gone", address: 0x10000, lengthBytes: 8192).removed, descriptors)
            // Where the other one was before is free.
            try client.region(
                message(name: "left", address: 0x1000, userfaultOf: userfaultOf),
                userfaultOf == HandoffProtocol.ownUserfault ? [userfault.rawValue] : [])
            try client.ready(2)
            do throws(HandoffError) {
                let regions = try connection.receiveRegions(again: again, takesRequests: true, timeoutNanoseconds: 5 * seconds)
                #expect(regions[0].isRemoved && !regions[1].isRemoved)
                let list = try DestinationRegion.list(from: regions)
                #expect(list.map(\.isRemoved) == [true, false] && list.map(\.lengthBytes) == [8192, 4096])
                close(list[1].userfault)
                return nil
            } catch {
                return error.status
            }
        }
        #expect(try status(2, again: true) == nil)
        #expect(try status(2, again: false) == 5)
        #expect(try status(1, again: true) == 5)
        #expect(try status(2, again: true, [userfault.rawValue]) == 3)
        #expect(try status(2, again: true, userfaultOf: 0) == 8)
    }
}
