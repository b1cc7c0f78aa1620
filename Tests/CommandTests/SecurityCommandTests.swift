import Glibc
import Handoff
import HostMemory
import NativeHandoff
import PageCore
import TestSupport
import Testing

/// What crosses a network is protected, or somebody has said in so many words that it is not.
@Suite(.leavesNothing, .serialized) struct SecurityCommandTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// Not the host's own network, whatever the address looks like.
    @Test(arguments: ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "[2001:db8::1]:0"]) func aSourceBeyondThisHost(_ address: String) throws {
        try expectRefusal(
            ["source", "--memory", try scratch.memoryFile(), "--listen", address], code: 64,
            says: [address, "in the clear", "--tls-psk", "--insecure"], in: scratch)
        try expectRefusal(
            ["source", "--memory", try scratch.memoryFile(), "--listen", address, "--transport", "rdma"], code: 64,
            says: [address, "RDMA carries no encryption", "--insecure"], in: scratch)
    }

    @Test(arguments: ["192.0.2.1:7700", "[2001:db8::1]:7700"]) func aDestinationOfASourceBeyondThisHost(_ address: String) throws {
        try expectRefusal(
            ["destination", "--connect", address, "--handoff", scratch.file("handoff")], code: 64,
            says: [address, "in the clear", "--tls-psk", "--insecure"], in: scratch)
    }

    @Test(arguments: ["127.0.0.1:0", "127.1.2.3:0", "[::1]:0", "localhost:0"]) func thisHostNeedsNothing(_ address: String) throws {
        let source = try Program.pageferry(["source", "--memory", try scratch.memoryFile(), "--listen", address], in: scratch)
        // IPv6 may be switched off; that is said, and is no matter of security.
        if !source.says(" on ") { #expect(source.errorOutput.contains("cannot listen"), "\(source.errorOutput)") }
    }

    @Test func insecureIsTaken() throws {
        let source = try Program.pageferry(
            ["source", "--memory", try scratch.memoryFile(), "--listen", "0.0.0.0:0", "--insecure"], in: scratch)
        #expect(source.says(" on 0.0.0.0:"))
    }

    @Test(arguments: [
        (["--tls-psk", "/a", "--insecure"], "--insecure"), (["--tls-certificate", "/a"], "go together"),
        (["--tls-psk", "/a", "--tls-certificate", "/a", "--tls-key", "/b", "--tls-authority", "/c"], "either"),
        (["--tls-psk", "/a", "--tls-peer-name", "b"], "--tls-certificate"),
    ]) func optionsThatExcludeEachOther(_ options: [String], _ text: String) throws {
        try expectRefusal(["source", "--memory", "/a"] + options, code: 64, says: [text], in: scratch)
    }

    @Test func credentialsThatCannotBeUsed() throws {
        let memory = try scratch.memoryFile()
        try expectRefusal(
            ["source", "--memory", memory, "--listen", "127.0.0.1:0", "--tls-psk", scratch.file("none")], code: 78,
            says: [scratch.file("none"), "No such file"], in: scratch)
        let credentials = try TestCredentials()
        let open = try credentials.write(String(repeating: "k", count: 32), to: "open", mode: 0o644)
        try expectRefusal(
            ["source", "--memory", memory, "--listen", "127.0.0.1:0", "--tls-psk", open], code: 78, says: [open, "chmod 600"], in: scratch)
    }

    /// TLS says nothing about RDMA, and whoever asks for both must hear so.
    @Test(arguments: ["rdma", "auto"]) func tlsIsNotForRDMA(_ transport: String) throws {
        let key = try TestCredentials().key()
        try expectRefusal(
            ["source", "--memory", try scratch.memoryFile(), "--listen", "127.0.0.1:0", "--transport", transport, "--tls-psk", key],
            code: 64,
            says: ["RDMA carries no encryption"], in: scratch)
    }

    /// Operators may not point a daemon where its own command line would not have gone.
    @Test func recoverKeepsTheRule() throws {
        let control = scratch.file("control")
        let source = try Program.pageferry(
            ["source", "--memory", try scratch.memoryFile(), "--listen", "unix:\(scratch.file("one"))", "--control", control], in: scratch)
        #expect(source.says(" on "))
        let listen = try Program.pageferry(["recover", "--control", control, "--listen", "0.0.0.0:0"], in: scratch)
        #expect(listen.exitCode() != 0)
        #expect(listen.errorOutput.contains("in the clear"), "\(listen.errorOutput)")
    }

    /// Both daemons with certificates over TCP; the destination expects the host it connects to.
    @Test(arguments: [false, true]) func memoryOverTLS(_ usesKey: Bool) throws {
        let bytes = 4 << 20
        let credentials = try TestCredentials()
        try credentials.authority()
        try credentials.certificate("source", names: "IP:127.0.0.1")
        try credentials.certificate("destination")
        let key = try credentials.key()
        func options(_ side: String) -> [String] {
            if usesKey { return ["--tls-psk", key] }
            return [
                "--tls-certificate", credentials.file("\(side).pem"), "--tls-key", credentials.file("\(side).key"), "--tls-authority",
                credentials.file("authority.pem"),
            ]
        }
        let port = UInt16.random(in: 20_000..<30_000)
        let source = try Program.pageferry(
            ["source", "--memory", try scratch.memoryFile(bytes: bytes), "--listen", "127.0.0.1:\(port)", "--sessions", "1"]
                + options("source"),
            in: scratch)
        #expect(source.says(" on "))
        let plain = try Program.pageferry(
            ["destination", "--connect", "127.0.0.1:\(port)", "--handoff", scratch.file("plain")], in: scratch)
        // Before the one session that the source waits for, with which it ends.
        #expect(source.says("does not speak TLS"), "\(source.errorOutput)")
        let handoff = scratch.file("handoff")
        let destination = try Program.pageferry(
            ["destination", "--connect", "127.0.0.1:\(port)", "--handoff", handoff] + options("destination"), in: scratch)
        #expect(destination.says("waiting for memory"))
        let file = try MemoryFile.create(name: "secure", lengthBytes: bytes)
        let mapping = try MappedMemory(of: file, lengthBytes: bytes, access: .readWrite)
        var client = try HandoffClient(path: handoff)
        let userfault = try client.handOver(name: "memory", memory: mapping, file: file)
        try client.ready()
        let words = UnsafePointer<UInt8>(bitPattern: mapping.address)!
        for offset in stride(from: 1, to: bytes, by: 4093) {
            #expect(words[offset] == UInt8(truncatingIfNeeded: offset &* 31 &+ offset >> 12))
        }
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        #expect(source.errorOutput.contains("(TLS) has every page") || source.says("(TLS) has every page"), "\(source.errorOutput)")
        plain.signal(SIGTERM)
        _ = plain.exitCode()
        withExtendedLifetime(userfault) {}
        withExtendedLifetime(mapping) {}
    }
}
