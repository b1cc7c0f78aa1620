/// What an operation in the ring is about, packed into the 64 bits its completion carries.
struct OperationToken {
    enum Kind: UInt8 {
        case receive = 1
        case send = 2
        case watch = 3
        /// Cancellations and removals: their own completion says nothing of use.
        case housekeeping = 4
    }

    static let numberMask: UInt64 = (1 << 48) - 1

    let rawValue: UInt64

    /// - Parameters:
    ///   - index: the lane, or the watch's place.
    ///   - number: a send's number, a watch's generation; its low 48 bits count.
    init(_ kind: Kind, index: Int = 0, number: UInt64 = 0) {
        rawValue = UInt64(kind.rawValue) << 56 | UInt64(UInt8(index)) << 48 | number & Self.numberMask
    }

    init(rawValue: UInt64) { self.rawValue = rawValue }

    var kind: Kind? { Kind(rawValue: UInt8(truncatingIfNeeded: rawValue >> 56)) }
    var index: Int { Int(UInt8(truncatingIfNeeded: rawValue >> 48)) }
    var number: UInt64 { rawValue & Self.numberMask }
}
