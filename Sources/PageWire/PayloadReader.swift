/// Reads the payload of a control frame field by field; every read is bounded by what is left. Set-up path only.
struct PayloadReader {
    private let bytes: [UInt8]
    private let kind: FrameKind
    private var offset = 0

    /// - Parameter kind: named in errors.
    init(_ payload: [UInt8], of kind: FrameKind) {
        bytes = payload
        self.kind = kind
    }

    mutating func integer<Integer: FixedWidthInteger>(
        _ type: Integer.Type = Integer.self
    ) throws(FrameError) -> Integer {
        guard bytes.count - offset >= MemoryLayout<Integer>.size else { throw .malformedPayload(kind: kind) }
        var value: Integer = 0
        for byte in 0..<MemoryLayout<Integer>.size {
            value |= Integer(truncatingIfNeeded: bytes[offset + byte]) << (8 * byte)
        }
        offset += MemoryLayout<Integer>.size
        return value
    }

    /// `count` bytes that must be well-formed UTF-8.
    mutating func text(byteCount count: Int) throws(FrameError) -> String {
        guard count >= 0, bytes.count - offset >= count else { throw .malformedPayload(kind: kind) }
        defer { offset += count }
        guard let text = String(validating: bytes[offset..<(offset + count)], as: UTF8.self) else {
            throw .malformedPayload(kind: kind)
        }
        return text
    }

    /// Ends the reading: bytes left over are an error, so that two encoders can never disagree silently.
    func finish() throws(FrameError) {
        guard offset == bytes.count else { throw .malformedPayload(kind: kind) }
    }
}
