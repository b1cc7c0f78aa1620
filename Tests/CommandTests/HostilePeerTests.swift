import Foundation
import Glibc
import PageCore
import PageWire
import TestSupport
import Testing

private let oddVersion = Hello(
    versions: 9...9, role: .source, lane: 0, laneCount: 1, features: [],
    session: SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3))

/// A source that is none, or a bad one, seen from `pageferry destination`.
@Suite(.leavesNothing, .serialized) struct HostileSourceTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func refuses(
        code: Int32, says texts: [String], location: SourceLocation = #_sourceLocation,
        script: @escaping @Sendable (RawConnection) -> Void
    ) throws {
        let peer = try ScriptedPeer(in: scratch, script: script)
        try expectRefusal(
            ["destination", "--connect", peer.address, "--handoff", scratch.file("handoff")], code: code, says: texts, in: scratch,
            own: ["peer"], location: location)
        withExtendedLifetime(peer) {}
    }

    private static func hello(_ laneCount: UInt8 = 1, role: SessionRole = .source) -> [UInt8] {
        Hello(
            role: role, lane: 0, laneCount: laneCount, features: [],
            session: SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)
        ).encoded()
    }

    @Test func anotherVersion() throws {
        try refuses(
            code: 76, says: ["versions \(Hello.supportedVersions.upperBound)", "the peer 9", "install the same PageFerry on both hosts"]
        ) { connection in
            _ = connection.readFrame()
            connection.write(FrameHeader(.hello), oddVersion.encoded())
        }
    }

    @Test func anotherDestination() throws {
        try refuses(code: 76, says: ["on the same side", "connect a destination to a source"]) { connection in
            connection.write(FrameHeader(.hello), Self.hello(role: .destination))
        }
    }

    @Test(arguments: [
        "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2p1 some other program is here\r\n",
        String(repeating: "\u{7F}\u{1}", count: 4096),
    ])
    func anotherProgram(_ greeting: String) throws {
        try refuses(code: 76, says: ["does not speak PageFerry's protocol", "check the address and port"]) { $0.write(greeting) }
    }

    @Test func hangsUpAtOnce() throws {
        try refuses(code: 69, says: ["closed the connection", "see the peer's log"]) { connection in
            _ = connection.readFrame()
            connection.hangUp()
        }
    }

    @Test func truncatedFrame() throws {
        try refuses(code: 69, says: ["closed the connection in the middle of a frame"]) { connection in
            _ = connection.readFrame()
            connection.write(Array(headerBytes(FrameHeader(.hello, payloadBytes: 48)).prefix(20)))
            connection.hangUp()
        }
    }

    @Test func oversizedFrame() throws {
        try refuses(code: 76, says: ["does not speak PageFerry's protocol"]) { connection in
            _ = connection.readFrame()
            connection.write(headerBytes(FrameHeader(.hello, payloadBytes: 1 << 30)))
        }
    }

    @Test func oversizedRegionTable() throws {
        try refuses(code: 76, says: ["announced 16777216 bytes in a regionTable frame", "more than allowed"]) { connection in
            connection.write(FrameHeader(.hello), Self.hello())
            connection.write(headerBytes(FrameHeader(.regionTable, payloadBytes: 16 << 20)))
        }
    }

    @Test(
        arguments: [
            // More regions than follow; fewer than follow; a length that is no page; a page size that is none; a length beyond all memory.
            [2, 0] + entry(lengthBytes: 1 << 20, pageSize: 12), [0, 0] + entry(lengthBytes: 1 << 20, pageSize: 12),
            [1, 0] + entry(lengthBytes: 4097, pageSize: 12), [1, 0] + entry(lengthBytes: 1 << 20, pageSize: 3),
            [1, 0] + entry(lengthBytes: .max, pageSize: 12), [255, 255],
        ] as [[UInt8]])
    func lyingRegionTable(_ table: [UInt8]) throws {
        try refuses(code: 76, says: ["regionTable frame whose payload does not parse"]) { connection in
            connection.write(FrameHeader(.hello), Self.hello())
            connection.write(FrameHeader(.regionTable), table)
        }
    }

    @Test func moreLanesThanWanted() throws {
        try refuses(code: 76, says: ["hello frame where none belongs"]) { $0.write(FrameHeader(.hello), Self.hello(16)) }
    }

    /// What a hostile peer says reaches the terminal without its control characters.
    @Test func refusalWithEscapes() throws {
        try refuses(code: 75, says: ["the peer ended the session", "busy \u{FFFD}[31m now\u{FFFD}pageferry: fine"]) { connection in
            connection.write(FrameHeader(.failure, argument: FailureCode.busy.rawValue), Array("busy \u{1B}[31m now\npageferry: fine".utf8))
        }
    }

    /// One region of a table: length, page size as a power of two, a name of one letter.
    static func entry(lengthBytes: UInt64, pageSize: UInt8) -> [UInt8] {
        (0..<8).map { UInt8(truncatingIfNeeded: lengthBytes >> ($0 * 8)) } + [pageSize, 1, UInt8(ascii: "m")]
    }
}

/// Destinations that are none, seen from `pageferry source`: each is refused with a line, and the next one is served.
@Suite(.leavesNothing, .serialized) struct HostileDestinationTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// Starts a source, lets `script` speak to it, and expects a line about it; then the source must end cleanly upon SIGTERM.
    private func refuses(
        says texts: [String], location: SourceLocation = #_sourceLocation, script: (RawConnection) -> Void
    ) throws {
        let listen = "unix:\(scratch.file("source"))"
        let source = try Program.pageferry(["source", "--memory", try scratch.memoryFile(), "--listen", listen], in: scratch)
        #expect(source.says(" on unix:"), sourceLocation: location)
        do {
            let connection = try RawConnection(to: listen)
            script(connection)
        }
        for text in texts {
            #expect(source.says(text), "the source says \"\(text)\": \(source.errorOutput)", sourceLocation: location)
        }
        let lines = source.errorOutput.split(separator: "\n").filter { $0.hasPrefix("pageferry: refused") }
        #expect(lines.count == 1, "one line about it: \(source.errorOutput)", sourceLocation: location)
        // It serves on: an honest handshake is answered.
        let honest = try RawConnection(to: listen)
        honest.write(FrameHeader(.hello), hello.encoded())
        #expect(honest.readFrame()?.header.kind == .hello, sourceLocation: location)
        #expect(honest.readFrame()?.header.kind == .regionTable, sourceLocation: location)
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0, "\(source.errorOutput)", sourceLocation: location)
        scratch.expectNothingLeft(location: location)
    }

    private var hello: Hello {
        Hello(role: .destination, lane: 0, laneCount: 1, features: [], session: .unassigned)
    }

    @Test func anotherVersion() throws {
        try refuses(says: ["versions \(Hello.supportedVersions.upperBound)", "the peer 9", "install the same PageFerry on both hosts"]) {
            connection in
            var odd = oddVersion
            odd.role = .destination
            connection.write(FrameHeader(.hello), odd.encoded())
            let answer = connection.readFrame()
            #expect(answer?.header.kind == .failure)
            #expect(answer?.header.argument == FailureCode.versionMismatch.rawValue)
            #expect(answer.map { String(decoding: $0.payload, as: UTF8.self) }?.contains("install the same PageFerry") == true)
        }
    }

    @Test func anotherSource() throws {
        try refuses(says: ["on the same side"]) { connection in
            var wrong = hello
            wrong.role = .source
            connection.write(FrameHeader(.hello), wrong.encoded())
            #expect(connection.readFrame()?.header.argument == FailureCode.wrongRole.rawValue)
        }
    }

    @Test(arguments: ["GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", String(repeating: "\u{7F}", count: 1000)])
    func anotherProgram(_ greeting: String) throws {
        try refuses(says: ["does not speak PageFerry's protocol"]) { connection in
            connection.write(greeting)
            #expect(connection.readFrame()?.header.kind == .failure)
        }
    }

    @Test func truncatedFrame() throws {
        try refuses(says: ["in the middle of a frame"]) { connection in
            connection.write(Array(headerBytes(FrameHeader(.hello, payloadBytes: 48)).prefix(20)))
        }
    }

    @Test func oversizedFrame() throws {
        try refuses(says: ["does not speak PageFerry's protocol"]) { connection in
            connection.write(headerBytes(FrameHeader(.hello, payloadBytes: 1 << 30)))
            #expect(connection.readFrame()?.header.kind == .failure)
        }
    }

    /// A further lane of a session nobody opened.
    @Test func guessedSession() throws {
        try refuses(says: ["named a session this host does not have"]) { connection in
            var guess = hello
            guess.lane = 1
            guess.session = SessionIdentity(identifier: 7, secretLow: 0, secretHigh: 0)
            connection.write(FrameHeader(.hello), guess.encoded())
            #expect(connection.readFrame()?.header.argument == FailureCode.unknownSession.rawValue)
        }
    }
}
