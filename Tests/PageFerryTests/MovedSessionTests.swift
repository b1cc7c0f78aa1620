import PageCore
import PageEngine
import TestSupport
import Testing

@testable import PageFerry

/// Links left for others as an operator tells, over every transport there is. What is cut at random bytes is in `RecoveryTests`,
/// over streams alone: under emulation that takes minutes, and tells nothing more.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct MovedSessionTests {
    private static let pauseNanoseconds: UInt64 = 60_000_000_000

    /// The link is left for another one in the middle, again and again, over every transport there is.
    @Test(arguments: Link.all, [GuestKind.shared, .anonymous]) func movedAsTold(_ link: Link, _ kind: GuestKind) throws {
        let pages = 4096
        let source = try LocalSource(
            try makeImage(pages: pages), name: "moved", link: link, pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: source.address, link: link) { configuration in
            configuration.pauseNanoseconds = Self.pauseNanoseconds
            configuration.creditBytes = 256 << 10
        }
        let readers = guest.startReaders(count: 2, seed: 5)
        for round in 1...4 {
            destination.session.recover(at: source.address)
            #expect(poll { destination.session.statistics.read().isOver || destination.pauses >= round })
        }
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        for page in 0..<pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
        #expect(try #require(source.nextEnd()).reason == nil)
    }
}
