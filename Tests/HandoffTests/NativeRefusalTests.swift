import CShims
import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

/// Everything a hostile or broken VMM may say is refused by one clear error, told to it, and nothing it sent stays open.
@Suite("Native hand-off: refusals", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct NativeRefusalTests {
    /// The status of the daemon's error when it is given one region; nil when it takes it. Nothing may stay open.
    private func status(_ message: HandoffRegionMessage, _ descriptors: [Int32]) throws -> UInt32? {
        let before = openDescriptors()
        let error = try refusal(at: socketPath("refused")) { client in
            try client.hello()
            try client.region(message, descriptors)
            try client.ready(1)
        }
        #expect(openDescriptors() == before)
        return error?.status
    }

    /// How many descriptors of this process lead to the memory file of these tests.
    private func openDescriptors() -> Int {
        (0..<1024).count { descriptor in
            var buffer = [CChar](repeating: 0, count: 256)
            let count = readlink("/proc/self/fd/\(descriptor)", &buffer, 255)
            let link = count < 0 ? "" : String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self)
            return link.contains("refusal-test")
        }
    }

    @Test("A region that cannot be")
    func badRegions() throws {
        let userfault = try UserfaultDescriptor(required: [])
        let one = [userfault.rawValue]
        #expect(try status(message(), one) == nil)
        let bad: [HandoffRegionMessage] = [
            message(lengthBytes: 0), message(address: 0x10001), message(lengthBytes: 4095), message(fileOffset: 1),
            message(pageSizeBytes: 8192), message(pageSizeBytes: 0), message(pageSizeBytes: .max),
            message(pageSizeBytes: 2 << 20), message(address: 0), message(address: .max & ~4095),
            message(lengthBytes: .max & ~4095), message(fileOffset: .max & ~4095), message(kind: 7), message(modes: 0),
            message(modes: 4), message(modes: 0xffff), message(kind: 1, modes: 1),
        ]
        for region in bad { #expect(try status(region, one) == 5, "\(region)") }
    }

    /// Each byte that is no text becomes a character of three bytes.
    @Test("A name that is longer than allowed once it can be read")
    func unreadableName() throws {
        var payload = message().encoded
        payload.removeLast(message().name.utf8.count)
        payload[34] = UInt8(RegionDescription.longestNameBytes)
        #expect(throws: HandoffError.malformed(detail: "a region's name is not text")) {
            try HandoffRegionMessage(payload + [UInt8](repeating: 0xFF, count: RegionDescription.longestNameBytes))
        }
        #expect(try HandoffRegionMessage(payload + [UInt8](repeating: 0x61, count: RegionDescription.longestNameBytes)).name.count == 255)
    }

    @Test("Descriptors that are too few, too many or of the wrong kind")
    func badDescriptors() throws {
        let userfault = try UserfaultDescriptor(required: [])
        let file = try MemoryFile.create(name: "refusal-test", lengthBytes: 2 * 4096)
        let shared = message(kind: 1, modes: 5)
        #expect(try status(shared, [userfault.rawValue, file.rawValue]) == nil)
        #expect(try status(shared, [userfault.rawValue]) == 3)
        #expect(try status(shared, []) == 3)
        #expect(try status(shared, [userfault.rawValue, file.rawValue, file.rawValue]) == 3)
        #expect(try status(message(), [userfault.rawValue, file.rawValue]) == 3)
        #expect(try status(shared, [file.rawValue, userfault.rawValue]) == 8)
        #expect(try status(shared, [userfault.rawValue, userfault.rawValue]) == 9)
        #expect(try status(message(), [file.rawValue]) == 8)
        let raw = pageferry_userfault_open(O_CLOEXEC | O_NONBLOCK)
        defer { close(raw) }
        #expect(try status(message(), [raw]) == 8)
        #expect(try status(message(userfaultOf: 0), []) == 8)
        #expect(try status(message(userfaultOf: 7), []) == 8)
    }

    @Test("A memory file that is too short, read-only, or of another page size")
    func badFiles() throws {
        let userfault = try UserfaultDescriptor(required: [])
        let file = try MemoryFile.create(name: "refusal-test", lengthBytes: 2 * 4096)
        let both = [userfault.rawValue, file.rawValue]
        #expect(try status(message(lengthBytes: 8192, kind: 1, modes: 5), both) == nil)
        #expect(try status(message(lengthBytes: 12288, kind: 1, modes: 5), both) == 9)
        #expect(try status(message(lengthBytes: 8192, fileOffset: 4096, kind: 1, modes: 5), both) == 9)
        #expect(
            try status(message(address: 2 << 20, lengthBytes: 2 << 20, pageSizeBytes: 2 << 20, kind: 1, modes: 5), both) == 9)
        let readOnly = open("/proc/self/fd/\(file.rawValue)", O_RDONLY | O_CLOEXEC)
        defer { close(readOnly) }
        #expect(try status(message(kind: 1, modes: 5), [userfault.rawValue, readOnly]) == 9)
    }

    @Test("The same pages twice, by address or by file")
    func overlaps() throws {
        let userfault = try UserfaultDescriptor(required: [])
        let file = try MemoryFile.create(name: "refusal-test", lengthBytes: 4 * 4096)
        func two(_ first: HandoffRegionMessage, _ second: HandoffRegionMessage, shared: Bool) throws -> HandoffError? {
            let descriptors = shared ? [userfault.rawValue, file.rawValue] : [userfault.rawValue]
            return try refusal(at: socketPath("overlap")) { client in
                try client.hello()
                try client.region(first, descriptors)
                try client.region(second, descriptors)
                try client.ready(2)
            }
        }
        let low = message(name: "low", address: 0x10000, lengthBytes: 8192)
        let overlap = HandoffError.overlap(name: "high", other: "low")
        #expect(try two(low, message(name: "high", address: 0x12000), shared: false) == nil)
        #expect(try two(low, message(name: "high", address: 0x11000), shared: false) == overlap)
        #expect(try two(low, message(name: "high", address: 0xf000, lengthBytes: 0x8000), shared: false) == overlap)
        #expect(try two(low, low, shared: false) == .overlap(name: "low", other: "low"))
        let fileLow = message(name: "low", address: 0x10000, lengthBytes: 8192, kind: 1, modes: 5)
        #expect(
            try two(fileLow, message(name: "high", address: 0x20000, fileOffset: 8192, kind: 1, modes: 5), shared: true) == nil)
        #expect(
            try two(fileLow, message(name: "high", address: 0x20000, fileOffset: 4096, kind: 1, modes: 5), shared: true)
                == overlap)
    }

    @Test("Too many regions")
    func tooMany() throws {
        let userfault = try UserfaultDescriptor(required: [])
        let path = socketPath("many")
        let listener = try HandoffListener(path: path)
        let raw = try RawClient(path: path)
        let connection = try listener.accept(timeoutNanoseconds: seconds)
        let daemon = Runner { [descriptor = userfault.rawValue, socket = raw.socket.rawValue] () -> Int in
            let client = HandoffSocket(adopting: dup(socket))
            let deadline = HandoffDeadline(timeoutNanoseconds: 10 * seconds)
            var hello: [UInt8] = []
            hello.appendLittleEndian(HandoffProtocol.version)
            hello.appendLittleEndian(UInt32(0))
            guard (try? client.send(.hello, hello, deadline: deadline)) != nil else { return -1 }
            for index in 0...RegionLayout.mostRegions {
                let region = message(
                    address: UInt64(index + 1) << 16,
                    userfaultOf: index == 0 ? HandoffProtocol.ownUserfault : 0)
                guard
                    (try? client.send(.region, region.encoded, descriptors: index == 0 ? [descriptor] : [], deadline: deadline))
                        != nil
                else { return index }
            }
            return RegionLayout.mostRegions + 1
        }
        #expect(throws: HandoffError.tooManyRegions) {
            _ = try connection.receiveRegions(timeoutNanoseconds: 10 * seconds)
        }
        #expect(daemon.join() != nil)
        #expect(try raw.lastAnswer()?.status == 6)
    }

    @Test("Messages that are out of place, cut short, too long or of another protocol")
    func badMessages() throws {
        func error(_ body: (borrowing RawClient) throws -> Void) throws -> UInt32? {
            try refusal(at: socketPath("malformed"), during: body)?.status
        }
        #expect(try error { try $0.hello(version: 3) } == 1)
        #expect(try error { $0.raw(Array("GET / HTTP/1.1\r\n\r\n".utf8)) } == 1)
        #expect(try error { _ in } == 12)
        #expect(try error { $0.raw([0x50, 0x47]) } == 12)
        #expect(try error { try $0.hello() } == 12)
        #expect(try error { try $0.ready(0) } == 2)
        #expect(
            try error { client in
                try client.hello()
                try client.hello()
            } == 2)
        #expect(
            try error { client in
                try client.hello()
                try client.ready(0)
            } == 7)
        #expect(
            try error { client in
                try client.hello()
                try client.ready(3)
            } == 7)
        // An oversized payload, a cut one, unknown kinds, a lie about descriptors, a name longer than its message.
        func header(_ kind: UInt16, _ descriptors: UInt16, _ payloadBytes: UInt32, reserved: UInt32 = 0) -> [UInt8] {
            var bytes: [UInt8] = []
            bytes.appendLittleEndian(HandoffProtocol.magic)
            bytes.appendLittleEndian(kind)
            bytes.appendLittleEndian(descriptors)
            bytes.appendLittleEndian(payloadBytes)
            bytes.appendLittleEndian(reserved)
            return bytes
        }
        #expect(try error { $0.raw(header(1, 0, .max)) } == 2)
        #expect(try error { $0.raw(header(9, 0, 0)) } == 2)
        #expect(try error { $0.raw(header(1, 0, 8, reserved: 1)) } == 2)
        #expect(try error { $0.raw(header(1, 0, 4) + [1, 0, 0, 0]) } == 2)
        #expect(try error { $0.raw(header(1, 0, 9) + [1, 0, 0, 0, 0, 0, 0, 0, 0]) } == 2)
        #expect(try error { $0.raw(header(1, 3, 8) + [1, 0, 0, 0, 0, 0, 0, 0]) } == 2)
        #expect(try error { $0.raw(header(1, 0, 8) + [1, 0, 0]) } == 12)
        var named = message(name: "abcd").encoded
        named[34] = 200
        let lying = header(2, 0, UInt32(named.count)) + named
        #expect(
            try error { client in
                try client.hello()
                client.raw(lying)
            } == 2)
    }

    @Test("Whatever bytes arrive, the daemon answers with an error and goes on")
    func randomBytes() throws {
        var random = SystemRandomNumberGenerator()
        for _ in 0..<300 {
            let bytes = (0..<Int.random(in: 1...200, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            let payload = (0..<Int.random(in: 0...80, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
            let error = try refusal(at: socketPath("random")) { client in
                if Bool.random() {
                    client.raw(bytes)
                } else {
                    try client.hello()
                    try client.socket.send(
                        .region, payload, deadline: HandoffDeadline(timeoutNanoseconds: seconds))
                }
            }
            #expect(error != nil)
        }
    }
}
