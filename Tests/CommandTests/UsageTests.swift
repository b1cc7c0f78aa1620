import Foundation
import Glibc
import TestSupport
import Testing

/// Bad input on the command line: one clear line, the exit code of sysexits, nothing left.
@Suite(.leavesNothing, .serialized) struct UsageTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    // MARK: Source

    @Test func sourceWithoutAnythingToServe() throws {
        try expectRefusal(["source"], code: 64, says: ["--qmp PATH", "--memory PATH"], in: scratch)
    }

    @Test func sourceWithTwoThingsToServe() throws {
        try expectRefusal(["source", "--qmp", "/a", "--memory", "/b"], code: 64, says: ["one of", "--qmp PATH", "--pid PID"], in: scratch)
    }

    @Test(arguments: [["--bulk-lanes", "16"], ["--sessions", "-1"], ["--spin", "2000000"]])
    func sourceNumbersOutOfRange(_ option: [String]) throws {
        // "=" because a value that begins with a dash would be taken for an option.
        try expectRefusal(["source", "--memory", "/a", option.joined(separator: "=")], code: 64, says: [option[0], "takes"], in: scratch)
    }

    @Test func memoryFileMissing() throws {
        let path = scratch.file("absent")
        try expectRefusal(
            ["source", "--memory", path, "--listen", "127.0.0.1:0"], code: 66, says: [path, "No such file", "give the path"], in: scratch)
    }

    @Test func memoryFileOfOddLength() throws {
        let path = try scratch.memoryFile(bytes: 5000)
        try expectRefusal(
            ["source", "--memory", path, "--listen", "127.0.0.1:0"], code: 65, says: [path, "5000 bytes", "4096"], in: scratch)
    }

    @Test func memoryFileEmpty() throws {
        let path = try scratch.memoryFile(bytes: 0)
        try expectRefusal(["source", "--memory", path, "--listen", "127.0.0.1:0"], code: 65, says: [path, "0 bytes"], in: scratch)
    }

    @Test func memoryFileIsADirectory() throws {
        try expectRefusal(
            ["source", "--memory", scratch.path, "--listen", "127.0.0.1:0"], code: 66, says: [scratch.path, "no regular file", "give"],
            in: scratch)
    }

    @Test func listeningPortInUse() throws {
        let held = try HeldPort()
        try expectRefusal(
            ["source", "--memory", try scratch.memoryFile(), "--listen", "127.0.0.1:\(held.port)"], code: 73,
            says: ["127.0.0.1:\(held.port)", "in use", "port 0"], in: scratch)
        withExtendedLifetime(held) {}
    }

    @Test(arguments: ["nonsense", "host:", ":7700", "::1:7700", "host:99999", "unix:"])
    func listeningAddressIsNone(_ address: String) throws {
        try expectRefusal(
            ["source", "--memory", try scratch.memoryFile(), "--listen", address], code: 64,
            says: ["\"\(address)\"", "HOST:PORT"], in: scratch)
    }

    @Test func listeningPathIsAFile() throws {
        let path = try scratch.memoryFile("occupied", bytes: 4096)
        try expectRefusal(
            ["source", "--memory", try scratch.memoryFile(), "--listen", "unix:\(path)"], code: 73, says: [path, "not a socket"],
            in: scratch)
        #expect(FileManager.default.fileExists(atPath: path), "another's file is left alone")
    }

    @Test func qmpPathMissing() throws {
        let path = scratch.file("absent")
        try expectRefusal(
            ["source", "--qmp", path, "--listen", "127.0.0.1:0"], code: 66, says: [path, "No such file", "-qmp unix:"], in: scratch)
    }

    @Test func qmpPathIsAFile() throws {
        let path = try scratch.memoryFile()
        try expectRefusal(["source", "--qmp", path, "--listen", "127.0.0.1:0"], code: 66, says: [path, "-qmp unix:"], in: scratch)
    }

    @Test(arguments: ["HTTP/1.1 400 Bad Request\r\n\r\n", "{\"hello\": 1}\r\n", "220 ready\n"])
    func qmpPathIsAnotherProgram(_ greeting: String) throws {
        let peer = try ScriptedPeer(in: scratch, name: "qmp") { $0.write(greeting) }
        try expectRefusal(
            ["source", "--qmp", scratch.file("qmp"), "--listen", "127.0.0.1:0"], code: 76, says: ["QMP"], in: scratch, own: ["qmp"])
        withExtendedLifetime(peer) {}
    }

    // MARK: Destination

    @Test func destinationWithNothingToFill() throws {
        try expectRefusal(["destination", "--connect", "127.0.0.1:1"], code: 64, says: ["after `--`", "--handoff PATH"], in: scratch)
    }

    @Test func destinationWithTwoThingsToFill() throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff"), "--", "qemu"], code: 64,
            says: ["either", "--handoff PATH"], in: scratch)
    }

    @Test(arguments: [["--bulk-lanes", "16"], ["--window", "1K"], ["--credit", "2G"], ["--spin", "2000000"]])
    func destinationNumbersOutOfRange(_ option: [String]) throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff")] + option, code: 64,
            says: [option[0], "takes"], in: scratch)
    }

    @Test func pollModeIsNone() throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff"), "--poll", "sometimes"], code: 64,
            says: ["--poll", "busy", "adaptive", "event"], in: scratch)
    }

    @Test(arguments: ["1", "adaptively", "-4K", "4K4"]) func windowIsNone(_ window: String) throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff"), "--window=\(window)"], code: 64,
            says: ["--window"], in: scratch)
    }

    @Test func replayedFileIsNoTrace() throws {
        let path = try scratch.memoryFile(bytes: 5000)
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff"), "--replay-trace", path], code: 65,
            says: [path, "no trace", "--record-trace"], in: scratch)
    }

    @Test func replayedFileIsMissing() throws {
        let path = scratch.file("absent")
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--handoff", scratch.file("handoff"), "--replay-trace", path], code: 66,
            says: [path, "cannot read the trace"], in: scratch)
    }

    @Test func connectionRefused() throws {
        let port: UInt16
        do { port = try HeldPort().port }
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:\(port)", "--handoff", scratch.file("handoff")], code: 69,
            says: ["127.0.0.1:\(port)", "refused", "check that the peer is running"], in: scratch)
    }

    @Test func unknownHost() throws {
        // RFC 6761 keeps ".invalid" for names that never exist.
        try expectRefusal(
            ["destination", "--connect", "nowhere.invalid:7700", "--handoff", scratch.file("handoff")], code: 68,
            says: ["\"nowhere.invalid\"", "cannot be resolved", "check the name"], in: scratch)
    }

    @Test(arguments: ["nonsense", "host:", ":7700", "unix:"])
    func addressIsNone(_ address: String) throws {
        try expectRefusal(
            ["destination", "--connect", address, "--handoff", scratch.file("handoff")], code: 64,
            says: ["\"\(address)\"", "HOST:PORT"], in: scratch)
    }

    @Test func commandWithIncoming() throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--", "qemu-system-x86_64", "-incoming", "defer"], code: 64,
            says: ["-incoming", "leave it out"], in: scratch)
    }

    @Test func commandWithoutMemoryBackend() throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--", "qemu-system-x86_64", "-m", "64"], code: 78,
            says: ["no memory backend", "share=on"], in: scratch)
    }

    @Test(arguments: [
        "memory-backend-file,id=ram,size=64M,mem-path=/dev/shm/x", "memory-backend-file,id=ram,size=64M,mem-path=/dev/shm/x,share=off",
        "memory-backend-memfd,id=ram,size=64M,share=off", "memory-backend-ram,id=ram,size=64M,share=on",
    ])
    func commandWithPrivateMemory(_ backend: String) throws {
        try expectRefusal(
            ["destination", "--connect", "127.0.0.1:1", "--", "qemu-system-x86_64", "-object", backend], code: 78,
            says: ["'ram'", "share=on"], in: scratch)
    }
}
