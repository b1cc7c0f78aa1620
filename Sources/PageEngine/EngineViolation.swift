import PageCore

/// What a peer did that the protocol does not allow: it is damaged, hostile, or has lost count. The session ends;
/// nothing that was resident is touched.
public enum EngineViolation: Error, Sendable, Hashable {
    case outsideRegions(PageRange)
    case payloadLength(PageRange, bytes: Int)
    case receivedTwice(PageRange)
    case endedWithPagesMissing(count: Int)
    case creditOverflow
}

extension EngineViolation: CustomStringConvertible {
    public var description: String {
        switch self {
        case .outsideRegions(let range):
            "the peer named pages \(range) outside the agreed regions; it is damaged or hostile, and the session ends"
        case .payloadLength(let range, let bytes):
            "the peer sent \(bytes) bytes for pages \(range), which is not their length; it is damaged or hostile, and the session ends"
        case .receivedTwice(let range):
            "the peer sent pages \(range) on two lanes at once; it is damaged or hostile, and the session ends"
        case .endedWithPagesMissing(let count):
            "the source says that all is sent, but \(count) pages are missing; it is damaged or hostile, and the session ends"
        case .creditOverflow:
            "the destination granted more credit than any memory holds; it is damaged or hostile, and the session ends"
        }
    }
}
