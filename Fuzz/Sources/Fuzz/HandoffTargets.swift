import PageCore

@testable import Handoff
@testable import NativeHandoff

/// The native hand-off, message by message and as a whole conversation.
enum HandoffTargets {
    /// Each message of the protocol is tried on every input.
    static func messages(_ input: [UInt8]) {
        if let header = refusing({ () throws(HandoffError) in try HandoffHeader(input) }) {
            require(header.payloadBytes <= HandoffProtocol.mostPayloadBytes, "a payload is bounded")
        }
        if let region = refusing({ () throws(HandoffError) in try HandoffRegionMessage(input) }) {
            require(region.name.utf8.count <= RegionDescription.longestNameBytes, "a name is bounded")
            require(
                region.name.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control }, "a name holds no control characters")
            let again = refusing { () throws(HandoffError) in try HandoffRegionMessage(region.encoded) }
            require(again == region, "a region says the same when it is handed over again")
        }
        if let answer = refusing({ () throws(HandoffError) in try HandoffAnswer(input) }) {
            require(
                answer.text.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control }, "a text holds no control characters")
            let again = refusing { () throws(HandoffError) in try HandoffAnswer(answer.encoded) }
            require(again?.status == answer.status, "an answer says the same when it is passed on")
        }
    }

    /// A VMM that hands over whatever the input says, without a descriptor: it never gets as far as memory.
    static func connection(_ input: [UInt8]) {
        let socket = PeerSocket(saying: input)
        do throws(HandoffError) {
            let connection = try HandoffConnection(HandoffSocket(adopting: socket.ours))
            let regions = try connection.receiveRegions(timeoutNanoseconds: 10_000_000_000)
            require(regions.count < 0, "nothing is handed over without descriptors")
        } catch {
            require(error.status != 0 && !error.description.contains("\n"), "a refusal is one line, and no success")
        }
        withExtendedLifetime(socket.ours) {}
    }

    private static func refusing<Value>(_ decode: () throws(HandoffError) -> Value) -> Value? {
        do throws(HandoffError) {
            return try decode()
        } catch {
            require(error.status != 0 && !error.description.contains("\n"), "a refusal is one line, and no success")
            return nil
        }
    }

    private static let region = HandoffRegionMessage(
        name: "ram", address: 0x7f00_0000_0000, lengthBytes: 4 << 20, fileOffset: 4096, pageSizeBytes: 4096, kind: 1, modes: 5,
        userfaultOf: HandoffProtocol.ownUserfault)

    private static func message(_ kind: HandoffMessageKind, _ payload: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.appendLittleEndian(HandoffProtocol.magic)
        bytes.appendLittleEndian(kind.rawValue)
        bytes.appendLittleEndian(UInt16(0))
        bytes.appendLittleEndian(UInt32(payload.count))
        bytes.appendLittleEndian(UInt32(0))
        return bytes + payload
    }

    static var messageSeeds: [[UInt8]] {
        // The longest name, none of its bytes text.
        var unreadable = region.encoded.dropLast(3) + [UInt8](repeating: 0xFF, count: RegionDescription.longestNameBytes)
        unreadable[34] = UInt8(RegionDescription.longestNameBytes)
        return [message(.ready, []), region.encoded, HandoffAnswer(status: 3, text: "no").encoded, Array(unreadable)]
    }

    static var connectionSeeds: [[UInt8]] {
        let hello = message(.hello, [1, 0, 0, 0, 0, 0, 0, 0])
        return [
            hello + message(.region, region.encoded) + message(.ready, [1, 0, 0, 0, 0, 0, 0, 0]),
            hello + message(.ready, [0, 0, 0, 0, 0, 0, 0, 0]),
        ]
    }
}
