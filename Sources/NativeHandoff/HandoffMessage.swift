import PageCore

// The messages of the native hand-off, as Documentation/Handoff.md lays them out: little-endian, bounded. Pure.

/// Constants of the protocol.
enum HandoffProtocol {
    /// "PGFH" in the order of bytes.
    static let magic: UInt32 = 0x4846_4750
    /// The oldest and the newest version this side speaks; the VMM chooses.
    static let oldestVersion: UInt32 = 1
    static let version: UInt32 = 2
    /// The first version with requests after `ready`.
    static let versionWithRequests: UInt32 = 2
    /// A region's kind, when it is handed over again without memory: it was taken out meanwhile.
    static let removedKind: UInt16 = 2
    /// In a hello's flags: the memory was served by a daemon before this one.
    static let againFlag: UInt32 = 1
    static let headerBytes = 16
    /// The longest payload of any message.
    static let mostPayloadBytes = 1024
    static let helloBytes = 8
    /// The payload of a region without its name.
    static let regionBytes = 40
    static let readyBytes = 8
    static let removeBytes = 8
    /// The payload of an answer without its text.
    static let answerBytes = 8
    static let mostTextBytes = 512
    /// In place of a region's number: the userfaultfd comes with this message.
    static let ownUserfault: UInt16 = 0xffff
}

enum HandoffMessageKind: UInt16 {
    case hello = 1
    case region = 2
    case ready = 3
    case answer = 4
    case remove = 5
    case finished = 6
    case add = 7
}

/// How a region's pages are installed.
public enum HandoffMemoryKind: UInt16, Sendable, Hashable {
    /// Private memory of the VMM: pages are copied.
    case anonymous = 0
    /// A file both map: pages are written to the file, then continued.
    case shared = 1
}

/// The header of every message: magic, kind, number of descriptors, length of the payload.
struct HandoffHeader: Hashable {
    let kind: HandoffMessageKind
    let descriptorCount: Int
    let payloadBytes: Int

    init(kind: HandoffMessageKind, descriptorCount: Int, payloadBytes: Int) {
        self.kind = kind
        self.descriptorCount = descriptorCount
        self.payloadBytes = payloadBytes
    }

    init(_ bytes: [UInt8]) throws(HandoffError) {
        var reader = HandoffReader(bytes)
        guard try reader.integer(UInt32.self) == HandoffProtocol.magic else {
            throw .notThisProtocol(detail: "wrong magic number")
        }
        let kind = try reader.integer(UInt16.self)
        guard let known = HandoffMessageKind(rawValue: kind) else { throw .malformed(detail: "unknown message kind \(kind)") }
        self.kind = known
        descriptorCount = Int(try reader.integer(UInt16.self))
        let payloadBytes = try reader.integer(UInt32.self)
        guard payloadBytes <= HandoffProtocol.mostPayloadBytes else {
            throw .malformed(detail: "a payload of \(payloadBytes) bytes; at most \(HandoffProtocol.mostPayloadBytes) are allowed")
        }
        self.payloadBytes = Int(payloadBytes)
        guard try reader.integer(UInt32.self) == 0 else { throw .malformed(detail: "a reserved field is not zero") }
    }
}

/// One region as it is announced.
struct HandoffRegionMessage: Hashable {
    let name: String
    let address: UInt64
    let lengthBytes: UInt64
    let fileOffset: UInt64
    let pageSizeBytes: UInt32
    let kind: UInt16
    /// The modes the VMM registered the range with, `UFFDIO_REGISTER_MODE_*`.
    let modes: UInt16
    /// The number of the earlier region whose userfaultfd serves this one too, or `ownUserfault`.
    let userfaultOf: UInt16

    /// The same region, when it is handed over again and was taken out meanwhile.
    var removed: HandoffRegionMessage {
        HandoffRegionMessage(
            name: name, address: 0, lengthBytes: lengthBytes, fileOffset: 0, pageSizeBytes: pageSizeBytes,
            kind: HandoffProtocol.removedKind, modes: 0, userfaultOf: HandoffProtocol.ownUserfault)
    }

    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(address)
        bytes.appendLittleEndian(lengthBytes)
        bytes.appendLittleEndian(fileOffset)
        bytes.appendLittleEndian(pageSizeBytes)
        bytes.appendLittleEndian(kind)
        bytes.appendLittleEndian(modes)
        bytes.appendLittleEndian(userfaultOf)
        bytes.appendLittleEndian(UInt16(truncatingIfNeeded: name.utf8.count))
        bytes.appendLittleEndian(UInt32(0))
        return bytes + name.utf8
    }
}

extension HandoffRegionMessage {
    init(_ payload: [UInt8]) throws(HandoffError) {
        var reader = HandoffReader(payload)
        address = try reader.integer(UInt64.self)
        lengthBytes = try reader.integer(UInt64.self)
        fileOffset = try reader.integer(UInt64.self)
        pageSizeBytes = try reader.integer(UInt32.self)
        kind = try reader.integer(UInt16.self)
        modes = try reader.integer(UInt16.self)
        userfaultOf = try reader.integer(UInt16.self)
        let nameBytes = Int(try reader.integer(UInt16.self))
        guard try reader.integer(UInt32.self) == 0 else { throw .malformed(detail: "a reserved field is not zero") }
        guard nameBytes <= RegionDescription.longestNameBytes else {
            throw .malformed(detail: "a region's name of \(nameBytes) bytes; at most \(RegionDescription.longestNameBytes) are allowed")
        }
        name = try reader.text(nameBytes)
        // What was no text has been replaced, and has grown by that.
        guard name.utf8.count <= RegionDescription.longestNameBytes else { throw .malformed(detail: "a region's name is not text") }
        try reader.expectEnd()
    }
}

/// The answer to every message of the VMM.
struct HandoffAnswer: Hashable {
    /// 0 for success, else `HandoffError.status`.
    let status: UInt32
    /// One line for people.
    let text: String

    var encoded: [UInt8] {
        let line = Array(text.utf8.prefix(HandoffProtocol.mostTextBytes))
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(status)
        bytes.appendLittleEndian(UInt32(line.count))
        return bytes + line
    }

    init(status: UInt32, text: String) {
        self.status = status
        self.text = text
    }

    init(_ payload: [UInt8]) throws(HandoffError) {
        var reader = HandoffReader(payload)
        status = try reader.integer(UInt32.self)
        let textBytes = Int(try reader.integer(UInt32.self))
        guard textBytes <= HandoffProtocol.mostTextBytes else { throw .malformed(detail: "an answer's text is too long") }
        text = try reader.text(textBytes)
        try reader.expectEnd()
    }
}

/// Reads integers and text from a payload; throws past its end, never traps.
struct HandoffReader {
    private let bytes: [UInt8]
    private var offset = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    mutating func integer<Integer: FixedWidthInteger & UnsignedInteger>(_: Integer.Type) throws(HandoffError) -> Integer {
        let size = MemoryLayout<Integer>.size
        guard bytes.count - offset >= size else { throw .malformed(detail: "a message is too short") }
        var value: Integer = 0
        for index in 0..<size { value |= Integer(bytes[offset + index]) << Integer(8 * index) }
        offset += size
        return value
    }

    /// Text of `count` bytes; control characters, which could mislead a terminal or a log, are replaced.
    mutating func text(_ count: Int) throws(HandoffError) -> String {
        guard bytes.count - offset >= count else { throw .malformed(detail: "a message is too short") }
        defer { offset += count }
        let text = String(decoding: bytes[offset..<offset + count], as: UTF8.self)
        return String(String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 }))
    }

    func expectEnd() throws(HandoffError) {
        guard offset == bytes.count else { throw .malformed(detail: "a message is \(bytes.count - offset) bytes too long") }
    }
}

extension [UInt8] {
    mutating func appendLittleEndian<Integer: FixedWidthInteger & UnsignedInteger>(_ value: Integer) {
        for index in 0..<MemoryLayout<Integer>.size {
            append(UInt8(truncatingIfNeeded: value >> Integer(8 * index)))
        }
    }
}
