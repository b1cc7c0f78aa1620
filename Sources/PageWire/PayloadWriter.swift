/// Builds the payload of a control frame. Set-up path only: it allocates.
struct PayloadWriter {
    private(set) var bytes: [UInt8] = []

    mutating func integer<Integer: FixedWidthInteger>(_ value: Integer) {
        for byte in 0..<MemoryLayout<Integer>.size {
            bytes.append(UInt8(truncatingIfNeeded: value >> (8 * byte)))
        }
    }

    mutating func text(_ value: String) {
        bytes.append(contentsOf: value.utf8)
    }
}
