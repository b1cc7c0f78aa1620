import Glibc
import TestSupport
import Testing

@testable import Demonstration

@Suite(.leavesNothing) struct LineChannelTests {
    /// A guest that is moved in the middle of a line has written one half on each host.
    @Test func keepsTheHalfOfALineThatIsCutOff() throws {
        let channel = try LineChannel()
        let writer = dup(channel.theirs)
        channel.start()
        let text = Array("T 340 1 2\r\nT 341 98".utf8)
        #expect(write(writer, text, text.count) == text.count)
        close(writer)
        #expect(channel.wait(timeoutNanoseconds: 10_000_000_000) { $0.text == "T 340 1 2" } != nil)
        channel.stop()
        #expect(channel.all.count == 1)
        #expect(channel.unfinished == "T 341 98")
        var log = GuestLog()
        log.read(channel.unfinished + "2 418178", arrivedNanoseconds: 1)
        #expect(log.ticks.map(\.number) == [341])
        #expect(log.badLines.isEmpty)
    }
}
