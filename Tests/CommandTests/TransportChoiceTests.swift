import Foundation
import Glibc
import TestSupport
import Testing
import Verbs

/// Choosing a transport on a host without RDMA: `auto` goes on over TCP and says why, `rdma` is refused in one line.
@Suite(
    .leavesNothing, .serialized,
    .enabled(
        if: access(Built.pageferry, X_OK) == 0 && (try? DeviceDescription.all().isEmpty) == true,
        "a host with RDMA devices has nothing to fall back from"))
struct TransportChoiceTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    @Test func autoFallsBackToTCPAndSaysSo() throws {
        let memory = try scratch.memoryFile()
        let port = Int.random(in: 20_000..<30_000)
        let source = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "127.0.0.1:\(port)", "--transport", "auto"], in: scratch)
        #expect(source.says("TCP only:"))
        #expect(source.says("127.0.0.1:\(port) (TCP)"))
        let destination = try Program.pageferry(
            ["destination", "--connect", "127.0.0.1:\(port)", "--transport", "auto", "--handoff", scratch.file("handoff")], in: scratch)
        #expect(destination.says("using TCP:"))
        #expect(destination.says("waiting for memory"))
    }

    @Test(arguments: ["source", "destination"]) func rdmaIsRefusedWithoutADevice(_ side: String) throws {
        let memory = try scratch.memoryFile()
        let arguments =
            side == "source"
            ? ["source", "--memory", memory, "--listen", "127.0.0.1:0"]
            : ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff")]
        try expectRefusal(arguments + ["--transport", "rdma"], code: 69, says: ["no RDMA device", "--transport tcp"], in: scratch)
    }
}
