import Glibc
import TestSupport
import Testing

@testable import StreamTransport

/// What is taken over as the lanes of a session, and what is not.
@Suite(.leavesNothing, .serialized) struct AdoptedSocketsTests {
    private func pair() throws -> (Int32, Int32) {
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0)
        return (ends[0], ends[1])
    }

    private func refusal(_ numbers: [Int32]) -> String {
        do throws(StreamError) {
            _ = try AdoptedSockets(copying: numbers)
            return "it was taken"
        } catch { return error.description }
    }

    /// Nonblocking sockets with time-outs, as programs with loops of their own have them, become what a ring waits for; what was given
    /// stays open, and each copy is closed once, by whoever has it.
    @Test func copiesAreAsALaneNeedsThem() throws {
        let (one, other) = try pair()
        defer { for end in [one, other] { close(end) } }
        _ = fcntl(one, F_SETFL, fcntl(one, F_GETFL) | O_NONBLOCK)
        var soon = timeval(tv_sec: 0, tv_usec: 1000)
        #expect(setsockopt(one, SOL_SOCKET, SO_RCVTIMEO, &soon, socklen_t(MemoryLayout<timeval>.size)) == 0)
        let copy: Int32
        do {
            let sockets = try AdoptedSockets(copying: [one, other])
            #expect(sockets.count == 2 && sockets.isLocal)
            copy = try #require(sockets.takeFirst())
        }
        defer { close(copy) }
        #expect(copy != one && fcntl(copy, F_GETFL) & O_NONBLOCK == 0 && fcntl(copy, F_GETFD) == FD_CLOEXEC)
        var length = socklen_t(MemoryLayout<timeval>.size)
        #expect(getsockopt(copy, SOL_SOCKET, SO_RCVTIMEO, &soon, &length) == 0 && soon.tv_usec == 0)
        #expect(fcntl(one, F_GETFD) >= 0 && fcntl(other, F_GETFD) >= 0)
    }

    @Test func whatIsNoLaneIsRefused() throws {
        let (one, other) = try pair()
        var datagrams: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0, &datagrams) == 0)
        let unconnected = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        let file = open("/dev/null", O_RDWR)
        let listener = try StreamListener(on: .tcp(host: "127.0.0.1", port: 0))
        defer { for descriptor in [one, other, unconnected, file] + datagrams { close(descriptor) } }
        #expect(refusal([]).contains("0 sockets"))
        #expect(refusal(Array(repeating: one, count: 17)).contains("17 sockets"))
        #expect(refusal([one, one]).contains("twice"))
        #expect(refusal([one, 99_999]).contains("not open"))
        #expect(refusal([-1]).contains("not open"))
        #expect(refusal([file]).contains("no stream socket"))
        #expect(refusal(datagrams).contains("no stream socket"))
        #expect(refusal([unconnected]).contains("not connected"))
        #expect(refusal([listener.rawDescriptor]).contains("not connected"))
    }

    @Test func aPeerOnLoopbackIsLocal() throws {
        var listener = try StreamListener(on: .tcp(host: "127.0.0.1", port: 0))
        let client = try StreamConnection.connect(to: listener.address, timeoutNanoseconds: 10_000_000_000)
        guard let accepted = try listener.accept(timeoutNanoseconds: 10_000_000_000) else {
            Issue.record("nobody came")
            return
        }
        for end in [client.rawDescriptor, accepted.rawDescriptor] {
            #expect(try AdoptedSockets(copying: [end]).isLocal)
        }
    }
}
