/// What a piece of work is about, packed into the 64 bits its completion carries.
struct WorkToken {
    enum Kind: UInt8 {
        case message = 1
        case receive = 2
        case fetch = 3
        case write = 4
    }

    static let numberMask: UInt64 = (1 << 48) - 1

    let rawValue: UInt64

    /// - Parameter number: a buffer's number, or the owner's token; its low 48 bits count.
    init(_ kind: Kind, _ number: UInt64) { rawValue = UInt64(kind.rawValue) << 56 | number & Self.numberMask }

    init(rawValue: UInt64) { self.rawValue = rawValue }

    var kind: Kind? { Kind(rawValue: UInt8(truncatingIfNeeded: rawValue >> 56)) }
    var number: UInt64 { rawValue & Self.numberMask }
}
