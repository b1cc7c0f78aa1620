import Glibc
import PageTransport
import PageWire
import TestSupport
import Testing

@testable import StreamTransport

/// The last words of a session go over the urgent lane: its peer gets to read them before it learns that other lanes are gone.
@Suite(.leavesNothing, .serialized) struct CloseOrderTests {
    /// Whether there is something to read, or the end, within a minute.
    private func isReadable(_ descriptor: Int32, timeoutMilliseconds: Int32 = 60_000) -> Bool {
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&entry, 1, timeoutMilliseconds) == 1
    }

    @Test func otherLanesOutliveTheUrgentOne() throws {
        let (urgent, urgentPeer) = try connectedDescriptors(.unix)
        let (bulk, bulkPeer) = try connectedDescriptors(.unix)
        defer { close(bulkPeer) }
        var lanes = StreamLanes()
        lanes.append(adopting: urgent)
        lanes.append(adopting: bulk)
        var configuration = StreamConfiguration()
        configuration.closeTimeoutNanoseconds = 60_000_000_000
        let closing = ClosingTransport(try StreamTransport(lanes: lanes, configuration: configuration))
        let thread = try Thread { closing.sayAndClose() }
        var bytes = [UInt8](repeating: 0, count: 64)
        #expect(isReadable(urgentPeer) && read(urgentPeer, &bytes, 64) == FrameHeader.byteCount)
        #expect(isReadable(urgentPeer) && read(urgentPeer, &bytes, 64) == 0, "the urgent lane ends")
        #expect(!isReadable(bulkPeer, timeoutMilliseconds: 0), "the other waits until its peer has seen that")
        close(urgentPeer)
        #expect(isReadable(bulkPeer) && read(bulkPeer, &bytes, 64) == 0, "then it ends too")
        thread.join()
    }
}

/// A transport that another thread closes.
private final class ClosingTransport: @unchecked Sendable {
    private var transport: StreamTransport?

    init(_ transport: consuming StreamTransport) { self.transport = consume transport }

    func sayAndClose() {
        guard var mine = transport.take() else { return }
        let accepted = mine.submit(FrameHeader(.farewell), copying: nil, lane: .urgent)
        #expect(accepted)
        mine.close()
    }
}
