import Foundation
import NativeHandoff

/// One region of guest memory as Firecracker announces it (`GuestRegionUffdMapping`, src/vmm/src/persist.rs): where Firecracker has
/// mapped it, and where its content begins in the snapshot's memory file.
struct FirecrackerRegion: Hashable, Decodable {
    var address: UInt64
    var lengthBytes: UInt64
    /// Bytes; cumulative over the regions.
    var fileOffset: UInt64
    var pageSizeBytes: UInt64

    private enum Key: String, CodingKey {
        case address = "base_host_virt_addr"
        case lengthBytes = "size"
        case fileOffset = "offset"
        case pageSizeBytes = "page_size"
        /// Deprecated. Holds bytes, in spite of its name.
        case pageSizeKiB = "page_size_kib"
    }

    init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: Key.self)
        address = try Self.number(.address, fields)
        lengthBytes = try Self.number(.lengthBytes, fields)
        fileOffset = try Self.number(.fileOffset, fields)
        if fields.contains(.pageSizeBytes) {
            pageSizeBytes = try Self.number(.pageSizeBytes, fields)
        } else if fields.contains(.pageSizeKiB) {
            let size = try Self.number(.pageSizeKiB, fields)
            // No page has so few bytes: somebody took the name at its word.
            pageSizeBytes = size < 4096 ? size << 10 : size
        } else {
            // Before there were huge pages there was no field.
            pageSizeBytes = 4096
        }
    }

    /// What is wrong with a field, in place of the decoder's own words, which name it or not.
    fileprivate enum FieldProblem: Error { case missing(String), notANumber(String) }

    private static func number(_ key: Key, _ fields: KeyedDecodingContainer<Key>) throws(FieldProblem) -> UInt64 {
        guard fields.contains(key) else { throw .missing(key.rawValue) }
        guard let number = try? fields.decode(UInt64.self, forKey: key) else { throw .notANumber(key.rawValue) }
        return number
    }
}

/// The one message of the hand-off: a JSON array of regions, without length or terminator.
enum FirecrackerMessage {
    /// The longest message that is read: many times what the most regions need.
    static let mostBytes = 256 << 10

    static func regions(_ text: [UInt8]) throws(HandoffError) -> [FirecrackerRegion] {
        do {
            return try JSONDecoder().decode([FirecrackerRegion].self, from: Data(text))
        } catch FirecrackerRegion.FieldProblem.missing(let name) {
            throw .malformed(detail: "a region has no field '\(name)'")
        } catch FirecrackerRegion.FieldProblem.notANumber(let name) {
            throw .malformed(detail: "the field '\(name)' of a region is no unsigned number")
        } catch {
            throw .malformed(detail: "no JSON array of regions")
        }
    }
}

/// Finds the end of a JSON array in bytes that come piece by piece.
struct ArrayEndScanner {
    private var depth = 0
    private var isInString = false
    private var isEscaped = false

    /// - Returns: the number of bytes up to the array's end, that bracket included; nil when it is not among them.
    /// - Throws: `.notThisProtocol` when something else than an array begins.
    mutating func scan(_ bytes: some Collection<UInt8>) throws(HandoffError) -> Int? {
        var count = 0
        for byte in bytes {
            count += 1
            if isInString {
                if isEscaped {
                    isEscaped = false
                } else if byte == UInt8(ascii: "\\") {
                    isEscaped = true
                } else if byte == UInt8(ascii: "\"") {
                    isInString = false
                }
                continue
            }
            switch byte {
            case UInt8(ascii: "["), UInt8(ascii: "{"): depth += 1
            case UInt8(ascii: "]"), UInt8(ascii: "}"):
                depth -= 1
                if depth <= 0 { return count }
            case UInt8(ascii: "\""): isInString = true
            default: break
            }
            guard depth > 0 || Self.isBlank(byte) else { throw .notThisProtocol(detail: "its message does not begin as a JSON array does") }
        }
        return nil
    }

    static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }
}
