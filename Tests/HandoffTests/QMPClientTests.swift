import Foundation
import Glibc
import PageCore
import TestSupport
import Testing

@testable import Handoff

@Suite(.leavesNothing) struct QMPClientTests {
    private func client(_ server: QMPFakeServer, timeoutNanoseconds: UInt64 = 10 * seconds) throws(QemuError) -> QMPClient {
        try QMPClient(adopting: server.clientEnd, name: "the fake", timeoutNanoseconds: timeoutNanoseconds)
    }

    private func soon() -> UInt64 { MonotonicClock.nowNanoseconds() + 10 * seconds }

    @Test func answersComeBackAndEventsAreKept() throws {
        let server = QMPFakeServer.answering { command in
            ([#"{"event": "NOISE"}"#, #"{"event": "STOP", "data": {"a": [1, 2.5, true, null, "x"]}}"#], #"{"command": "\#(command)"}"#)
        }
        let client = try client(server)
        let before = MonotonicClock.nowNanoseconds()
        #expect(try client.execute("query-name")["command"] == "query-name")
        let event = try #require(try client.nextEvent(named: ["STOP"], deadlineNanoseconds: soon()))
        #expect(event.name == "STOP")
        #expect(event.data["a"] == .array([1, .number(2.5), true, .null, "x"]))
        #expect((before...MonotonicClock.nowNanoseconds()).contains(event.arrivedNanoseconds))
        #expect(try client.nextEvent(named: ["STOP"], deadlineNanoseconds: MonotonicClock.nowNanoseconds()) == nil)
    }

    @Test func refusalsCarryQEMUsText() throws {
        let server = QMPFakeServer.greeting { peer in
            let command = peer.read()
            peer.write(#"{"id": \#(command?["id"]?.integer ?? 0), "error": {"class": "GenericError", "desc": "no such thing"}}"#)
            _ = peer.read()
        }
        let client = try client(server)
        #expect(throws: QemuError.refused(command: "cont", text: "no such thing")) { try client.execute("cont") }
    }

    @Test func anAnswerThatComesTooLateIsNotTheNextOnes() throws {
        let server = QMPFakeServer.greeting { peer in
            let late = peer.read()
            let next = peer.read()
            peer.answer(late, #""late""#)
            peer.answer(next, #""right""#)
            _ = peer.read()
        }
        let client = try client(server)
        #expect(throws: QemuError.timedOut(waitingFor: "the answer to 'first'")) {
            try client.execute("first", timeoutNanoseconds: 1_000_000)
        }
        #expect(try client.execute("second") == "right")
    }

    @Test func descriptorsGoAlong() throws {
        let server = QMPFakeServer.greeting { peer in
            let command = peer.read()
            if let descriptor = peer.descriptor {
                write(descriptor, "hello", 5)
                close(descriptor)
            }
            peer.answer(command)
        }
        var pipe: [Int32] = [-1, -1]
        try #require(Glibc.pipe(&pipe) == 0)
        let client = try client(server)
        try client.execute("getfd", ["fdname": "x"], descriptor: pipe[1])
        close(pipe[1])
        var text = [UInt8](repeating: 0, count: 16)
        #expect(read(pipe[0], &text, 16) == 5)
        close(pipe[0])
    }

    @Test func eventsAreBounded() throws {
        let server = QMPFakeServer.answering { _ in ((0..<1_000).map { #"{"event": "E", "data": {"n": \#($0)}}"# }, "{}") }
        let client = try client(server)
        try client.execute("flood")
        let first = try #require(try client.nextEvent(named: ["E"], deadlineNanoseconds: soon()))
        #expect(first.data["n"] == .integer(1_000 - QMPClient.mostEvents))
    }

    @Test func theDescriptorPollsReadableWhenAnEventComes() throws {
        let isConnected = Counter()
        let server = QMPFakeServer.greeting { peer in
            _ = poll(until: { isConnected.count > 0 })
            peer.write(#"{"event": "SHUTDOWN"}"#)
            _ = peer.read()
        }
        let client = try client(server)
        _ = isConnected.next()
        var entry = pollfd(fd: client.descriptor, events: Int16(POLLIN), revents: 0)
        #expect(Glibc.poll(&entry, 1, 10_000) == 1)
        #expect(try client.nextEvent(named: ["SHUTDOWN"], deadlineNanoseconds: soon()) != nil)
    }

    // MARK: Hostile peers

    @Test(arguments: ["HTTP/1.1 400 Bad Request", "[1, 2]", "{}", #"{"event": "STOP"}"#, String(repeating: "[", count: 100_000)])
    func whatDoesNotGreetIsNoQMP(_ line: String) {
        let server = QMPFakeServer { peer in
            peer.write(line)
            _ = peer.read()
        }
        #expect(throws: QemuError.notQMP(path: "the fake")) { try client(server) }
    }

    @Test func whoSaysNothingIsBusy() {
        let server = QMPFakeServer { peer in _ = peer.read() }
        #expect(throws: QemuError.busy(path: "the fake")) { try client(server, timeoutNanoseconds: 20_000_000) }
    }

    static let malformed: [String] = [
        "nonsense", #"{"return": "#, "[]", "7", "{}", #"{"event": 7}"#, #"{"return": "\#u{1}"}"#,
        #"{"return": "# + String(repeating: "[", count: 100_000) + String(repeating: "]", count: 100_000) + "}",
        #"{"return": "# + String(repeating: #"{"a":"#, count: 100) + "1" + String(repeating: "}", count: 101),
    ]

    @Test(arguments: malformed)
    func malformedMessagesEndTheConnection(_ line: String) throws {
        let server = QMPFakeServer.greeting { peer in
            _ = peer.read()
            peer.write(line)
            _ = peer.read()
        }
        let client = try client(server)
        do throws(QemuError) {
            try client.execute("query-status")
            Issue.record("it was accepted")
        } catch {
            guard case .malformedMessage = error else { throw error }
        }
    }

    @Test func deepButSaneNestingIsAccepted() throws {
        let value = String(repeating: "[", count: 60) + #""]]]\"[""# + String(repeating: "]", count: 60)
        let server = QMPFakeServer.answering { _ in ([], value) }
        #expect(try client(server).execute("query").array?.count == 1)
    }

    @Test func anEndlessLineIsRefused() throws {
        let server = QMPFakeServer.greeting { peer in
            _ = peer.read()
            let piece = [UInt8](repeating: UInt8(ascii: "x"), count: 1 << 20)
            for _ in 0..<18 { peer.write(piece) }
        }
        let client = try client(server)
        // The time is for sanitizers, under which sixteen megabytes take long.
        #expect(throws: QemuError.messageTooLong(bytes: QMPClient.longestMessageBytes)) {
            try client.execute("query-status", timeoutNanoseconds: 60 * seconds)
        }
        #expect(throws: QemuError.connectionLost) { try client.execute("query-status") }
    }

    @Test func endlessEventsDoNotHoldACommandForever() throws {
        let server = QMPFakeServer.greeting { peer in
            let line = Array((#"{"event": "E"}"# + "\n").utf8)
            let many = Array((0..<64).map { _ in line }.joined())
            // The client's end of the connection ends this.
            var entry = pollfd(fd: peer.socket, events: Int16(POLLOUT), revents: 0)
            while poll(&entry, 1, 20_000) > 0, entry.revents & Int16(POLLERR | POLLHUP) == 0 { peer.write(many) }
        }
        let client = try client(server)
        #expect(throws: QemuError.timedOut(waitingFor: "the answer to 'query-status'")) {
            try client.execute("query-status", timeoutNanoseconds: 50_000_000)
        }
    }

    @Test func aPeerThatEndsIsSeen() throws {
        let server = QMPFakeServer.greeting { peer in _ = peer.read() }
        let client = try client(server)
        #expect(throws: QemuError.connectionLost) { try client.execute("query-status") }
        #expect(throws: QemuError.connectionLost) { try client.nextEvent(named: ["STOP"], deadlineNanoseconds: soon()) }
    }

    @Test func nobodyThere() {
        let path = socketPath("qmp-nobody")
        #expect(throws: QemuError.cannotConnect(path: path, code: ENOENT)) { try QMPClient(connectingTo: path) }
        #expect(QemuError.cannotConnect(path: path, code: ENOENT).description.contains("-qmp unix:"))
    }
}
