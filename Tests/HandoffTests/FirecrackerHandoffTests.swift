import CShims
import Glibc
import HostMemory
import PageCore
import PageFerry
import TestSupport
import Testing
import Userfault

@testable import FirecrackerHandoff
@testable import NativeHandoff

/// Firecracker's hand-off over a real socket, and what a client may do wrong there.
@Suite("Firecracker's hand-off", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted)) struct FirecrackerHandoffTests {
    private struct Client: ~Copyable {
        let socket: HandoffSocket

        init(_ path: String) throws {
            let socket = try HandoffSocket.make()
            try #require(pageferry_unix_connect(socket.rawValue, path) == 0)
            self.socket = socket
        }

        func send(_ text: String, _ descriptors: [Int32] = []) {
            let bytes = Array(text.utf8)
            #expect(pageferry_handoff_send(socket.rawValue, bytes, bytes.count, descriptors, Int32(descriptors.count)) == bytes.count)
        }
    }

    private static func region(_ address: UInt, _ bytes: Int, _ offset: Int, page: Int = 4096) -> String {
        #"{"base_host_virt_addr":\#(address),"size":\#(bytes),"offset":\#(offset),"page_size":\#(page),"page_size_kib":\#(page)}"#
    }

    /// What the daemon makes of what `talk` sends, and of the end of sending when nothing is left to wait for.
    private func receive(
        _ name: String, keepsOpen: Bool = false, timeoutNanoseconds: UInt64 = 5 * seconds, _ talk: (borrowing Client) throws -> Void
    ) throws -> Result<DestinationRegion, HandoffError> {
        let path = socketPath("firecracker-\(name)")
        let listener = try HandoffListener(path: path)
        let client = try Client(path)
        let connection = try FirecrackerConnection.accept(listener, timeoutNanoseconds: 5 * seconds)
        #expect(connection.peer?.processIdentifier == getpid())
        let hasEnded = connection.hasEnded
        #expect(!hasEnded)
        try talk(client)
        if !keepsOpen { shutdown(client.socket.rawValue, Int32(SHUT_WR)) }
        do throws(HandoffError) {
            let regions = try connection.receiveRegions(timeoutNanoseconds: timeoutNanoseconds)
            let joined = try DestinationRegion.joined(from: regions)
            close(joined.userfault)
            return .success(joined)
        } catch {
            return .failure(error)
        }
    }

    private func userfault() throws -> UserfaultDescriptor { try UserfaultDescriptor(required: .removeEvents) }

    @Test func oneMessageAndNeverAnother() throws {
        let own = try userfault()
        let text = "[" + Self.region(0x7000_0000_0000, 3 << 20, 0) + "," + Self.region(0x6000_0000_0000, 1 << 20, 3 << 20) + "]"
        // Its connection stays open, and nothing more ever comes.
        let region = try receive("plain", keepsOpen: true) { $0.send(text, [own.rawValue]) }.get()
        #expect(
            region.pieces == [
                .init(guestAddress: 0x7000_0000_0000, lengthBytes: 3 << 20), .init(guestAddress: 0x6000_0000_0000, lengthBytes: 1 << 20),
            ])
        #expect(region.lengthBytes == 4 << 20 && region.pageSize == .fourKiB)
        #expect(region.backing == nil, "its memory is anonymous")
    }

    /// The order of the regions is that of the file, whatever that of the message.
    @Test func regionsAreOrderedByTheirOffsets() throws {
        let own = try userfault()
        let text = "[" + Self.region(0x7000_0000_0000, 1 << 20, 2 << 20) + "," + Self.region(0x6000_0000_0000, 2 << 20, 0) + "]"
        let region = try receive("order") { $0.send(text, [own.rawValue]) }.get()
        #expect(region.pieces.map(\.guestAddress) == [0x6000_0000_0000, 0x7000_0000_0000])
    }

    /// 200 regions take five pages of text; the kernel delivers it in as many reads as it likes.
    @Test func aMessageLongerThanAPageInManyPieces() throws {
        let own = try userfault()
        let regions = (0..<200).map { Self.region(0x7000_0000_0000 + UInt($0) << 30, 2 << 20, $0 * 2 << 20, page: 2 << 20) }
        let text = "[" + regions.joined(separator: ",") + "]"
        #expect(text.utf8.count > 16 << 10)
        for pieceBytes in [1, 333, 4096, 1 << 20] {
            let region = try receive("long") { client in
                var rest = Substring(text)
                var isFirst = true
                while !rest.isEmpty {
                    client.send(String(rest.prefix(pieceBytes)), isFirst ? [own.rawValue] : [])
                    rest = rest.dropFirst(pieceBytes)
                    isFirst = false
                    // One byte a message fills the socket long before the text is in.
                    if pieceBytes == 1, rest.utf8.count < text.utf8.count - 100 {
                        client.send(String(rest))
                        rest = ""
                    }
                }
            }.get()
            #expect(region.pieces.count == 200 && region.pageSize == .twoMiB)
        }
    }

    @Test(arguments: 1...3) func upToThreeDescriptors(_ count: Int) throws {
        let own = try userfault()
        let beside = try MemoryFile.create(name: "beside", lengthBytes: 4096)
        let text = "[" + Self.region(0x7000_0000_0000, 1 << 20, 0) + "]"
        let region = try receive("descriptors") { client in
            client.send(text, [own.rawValue] + Array(repeating: beside.rawValue, count: count - 1))
        }.get()
        #expect(region.lengthBytes == 1 << 20)
    }

    /// Each misbehaviour ends in its typed error, and takes no descriptor with it (the suite looks).
    @Test func misbehaviours() throws {
        let own = try userfault()
        let file = try MemoryFile.create(name: "no userfaultfd", lengthBytes: 4096)
        let good = Self.region(0x7000_0000_0000, 1 << 20, 0)
        func expect(
            _ text: String, _ descriptors: [Int32], status: UInt32, says part: String, location: SourceLocation = #_sourceLocation
        ) throws {
            switch try receive("wrong", { $0.send(text, descriptors) }) {
            case .success: Issue.record("accepted", sourceLocation: location)
            case .failure(let error):
                #expect(error.status == status, "\(error)", sourceLocation: location)
                #expect(error.description.contains(part), "\(error)", sourceLocation: location)
            }
        }
        try expect("[\(good)]", [], status: 2, says: "no descriptor")
        try expect("[\(good)]", Array(repeating: own.rawValue, count: 4), status: 2, says: "more than 3 descriptors")
        try expect("[\(good)]", Array(repeating: own.rawValue, count: 8), status: 2, says: "more than 3 descriptors")
        try expect("[\(good)]", [file.rawValue], status: 8, says: "userfaultfd")
        try expect("[\(good)]", [file.rawValue, own.rawValue], status: 8, says: "userfaultfd")
        try expect("[]", [own.rawValue], status: 2, says: "empty array")
        try expect("[\(good)][", [own.rawValue], status: 2, says: "follows")
        try expect("[\(good)", [own.rawValue], status: 12, says: "ended the hand-off connection")
        try expect("hello", [own.rawValue], status: 1, says: "JSON array")
        try expect("[\(Self.region(0x7000_0000_0000, 1 << 20, 4096))]", [own.rawValue], status: 5, says: "begins at byte 4096")
        let gap = Self.region(0x6000_0000_0000, 1 << 20, 2 << 20)
        try expect("[\(good),\(gap)]", [own.rawValue], status: 5, says: "ends at byte 1048576")
        let sharing = Self.region(0x6000_0000_0000, 1 << 20, 1 << 19)
        try expect("[\(good),\(sharing)]", [own.rawValue], status: 5, says: "begins at byte 524288")
        let overlapping = Self.region(0x7000_0008_0000, 1 << 20, 1 << 20)
        try expect("[\(good),\(overlapping)]", [own.rawValue], status: 4, says: "overlap")
        let huge = Self.region(0x6000_0000_0000, 2 << 20, 1 << 20, page: 2 << 20)
        try expect("[\(good),\(huge)]", [own.rawValue], status: 5, says: "multiples of its 2097152-byte page")
        let other = Self.region(0x6000_0000_0000, 2 << 20, 2 << 20, page: 2 << 20)
        try expect("[\(Self.region(0x7000_0000_0000, 2 << 20, 0)),\(other)]", [own.rawValue], status: 5, says: "differ in size")
        try expect("[\(Self.region(0x7000_0000_0000, 4095, 0))]", [own.rawValue], status: 5, says: "multiples")
        try expect("[\(Self.region(0, 4096, 0))]", [own.rawValue], status: 5, says: "address space")
        try expect("[\(Self.region(0x7000_0000_0000, 0, 0))]", [own.rawValue], status: 5, says: "empty")
        try expect(
            "[\(Self.region(0x7000_0000_0000, 4096, 0, page: 8192))]", [own.rawValue], status: 5, says: "8192 bytes is not supported")
        try expect("[\(Self.region(UInt.max - 4095, 1 << 20, 0))]", [own.rawValue], status: 5, says: "address space")
        let many = (0..<257).map { Self.region(0x7000_0000_0000 + UInt($0) << 20, 4096, $0 << 12) }
        try expect("[\(many.joined(separator: ","))]", [own.rawValue], status: 6, says: "more than 256 regions")
    }

    @Test func aMessageWithoutEnd() throws {
        let own = try userfault()
        let path = socketPath("firecracker-endless")
        let listener = try HandoffListener(path: path)
        let client = try Client(path)
        let connection = try FirecrackerConnection.accept(listener, timeoutNanoseconds: 5 * seconds)
        client.send("[", [own.rawValue])
        let box = SocketBox(descriptor: client.socket.rawValue)
        let writer = Runner<Bool> {
            let blanks = [UInt8](repeating: 0x20, count: 16 << 10)
            for _ in 0..<64 where send(box.descriptor, blanks, blanks.count, Int32(MSG_NOSIGNAL)) < 0 {
                guard errno == EAGAIN else { return true }
                var entry = pollfd(fd: box.descriptor, events: Int16(POLLOUT), revents: 0)
                poll(&entry, 1, 1000)
            }
            return true
        }
        #expect(throws: HandoffError.malformed(detail: "a message longer than \(FirecrackerMessage.mostBytes) bytes")) {
            _ = try connection.receiveRegions(timeoutNanoseconds: 20 * seconds)
        }
        _ = consume connection
        #expect(writer.join() == true)
        _ = client.socket.rawValue
    }

    @Test func nothingComesInTime() throws {
        let outcome = try receive("slow", keepsOpen: true, timeoutNanoseconds: seconds / 20) { $0.send("[") }
        guard case .failure(.timedOut) = outcome else {
            Issue.record("\(outcome)")
            return
        }
    }

    /// The connection's end says nothing; the process's does.
    @Test func onlyTheProcessEnds() throws {
        let path = socketPath("firecracker-end")
        let listener = try HandoffListener(path: path)
        let script = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.close(); time.sleep(60)"
        let words: [String] = ["/usr/bin/python3", "-c", script, path]
        var arguments = words.map { strdup($0) } + [nil]
        defer { for argument in arguments { free(argument) } }
        var child: pid_t = 0
        try #require(posix_spawn(&child, words[0], nil, nil, &arguments, environ) == 0)
        defer {
            kill(child, SIGKILL)
            var status: Int32 = 0
            waitpid(child, &status, 0)
        }
        let connection = try FirecrackerConnection.accept(listener, timeoutNanoseconds: 20 * seconds)
        #expect(connection.peer?.processIdentifier == child)
        #expect(throws: HandoffError.connectionEnded(step: "before all of Firecracker's regions were in")) {
            _ = try connection.receiveRegions(timeoutNanoseconds: 20 * seconds)
        }
        let hasEnded = connection.hasEnded
        #expect(!hasEnded)
        kill(child, SIGKILL)
        #expect(poll(until: { connection.hasEnded }))
    }
}

private struct SocketBox: Sendable { let descriptor: Int32 }
