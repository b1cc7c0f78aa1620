import Foundation

extension JSONValue {
    /// The deepest nesting accepted: several times what QEMU sends, and far from what would exhaust a thread's stack.
    static let mostNesting = 64

    /// Parses one message of a peer that may be hostile.
    init(parsing bytes: ArraySlice<UInt8>) throws(QemuError) {
        guard Self.nesting(of: bytes) <= Self.mostNesting else {
            throw .malformedMessage("a message nested more than \(Self.mostNesting) levels deep")
        }
        do {
            self = try JSONDecoder().decode(JSONValue.self, from: Data(bytes))
        } catch {
            throw .malformedMessage("a line that is not JSON")
        }
    }

    /// The deepest nesting of brackets outside strings. O(bytes).
    private static func nesting(of bytes: ArraySlice<UInt8>) -> Int {
        var depth = 0
        var deepest = 0
        var isInString = false
        var isEscaped = false
        for byte in bytes {
            if isEscaped {
                isEscaped = false
            } else if byte == UInt8(ascii: "\"") {
                isInString.toggle()
            } else if isInString {
                isEscaped = byte == UInt8(ascii: "\\")
            } else if byte == UInt8(ascii: "{") || byte == UInt8(ascii: "[") {
                depth += 1
                deepest = max(deepest, depth)
            } else if byte == UInt8(ascii: "}") || byte == UInt8(ascii: "]") {
                depth -= 1
            }
        }
        return deepest
    }
}

extension JSONValue {
    /// Its JSON text in UTF-8, on one line.
    var encoded: [UInt8] {
        do {
            return [UInt8](try JSONEncoder().encode(self))
        } catch {
            preconditionFailure("every JSON value but an infinite number can be written, and no command has one: \(error)")
        }
    }
}
