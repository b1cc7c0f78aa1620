import PageCore

/// Why a peer ends a session. Raw values are wire codes and are never reused.
public enum FailureCode: UInt64, Sendable, Hashable, CaseIterable {
    case unspecified = 0
    case versionMismatch = 1
    case regionMismatch = 2
    case wrongRole = 3
    case unknownSession = 4
    case busy = 5
    case protocolViolation = 6
    case virtualMachine = 7
    case cancelled = 8
    case memory = 9
}

/// The end of a session, told to the peer: the payload of a `failure` frame is its text, the argument its code.
public struct Failure: Error, Sendable, Hashable {
    /// The longest text in bytes of UTF-8; longer ones are cut.
    public static let longestTextBytes = 1024

    public let code: FailureCode
    /// One line for the operator: what is wrong and how to mend it. Never holds control characters.
    public let text: String

    public init(_ code: FailureCode, _ text: String) {
        self.code = code
        self.text = Self.printable(text)
    }

    /// The header and payload of the frame.
    public func encoded() -> (header: FrameHeader, payload: [UInt8]) {
        let payload = Array(text.utf8)
        return (FrameHeader(.failure, payloadBytes: payload.count, argument: code.rawValue), payload)
    }

    /// Reads what a peer said. It may be damaged or hostile, so the text is made printable and cut, never refused.
    public init(header: FrameHeader, payload: [UInt8]) {
        let bytes = payload.prefix(Self.longestTextBytes)
        self.init(FailureCode(rawValue: header.argument) ?? .unspecified, String(decoding: bytes, as: UTF8.self))
    }

    /// `text` with control characters (terminal escapes among them) replaced and cut to the longest length.
    static func printable(_ text: String) -> String {
        var cleaned = ""
        var byteCount = 0
        for scalar in text.withoutControls.unicodeScalars {
            byteCount += UTF8.width(scalar)
            guard byteCount <= longestTextBytes else { break }
            cleaned.unicodeScalars.append(scalar)
        }
        return cleaned
    }
}

extension Failure: CustomStringConvertible {
    public var description: String { text }
}
