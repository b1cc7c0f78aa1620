/// The bounds every frame is checked against before anything else is done with it.
public enum FrameLimits {
    /// The most bytes of payload of one `pages` frame: one 2 MiB page, or as much in small pages.
    public static let mostPageBytes = 2 << 20
    /// The most bytes of payload of every other frame.
    public static let mostControlBytes = 64 << 10
    /// The most pages a frame without their bytes (`request`, `zeroPages`, `removed`) may speak of.
    public static let mostPagesPerRange = Int(UInt32.max)
}

/// Why bytes are not a frame.
public enum FrameError: Error, Sendable, Hashable {
    case unknownKind(UInt8)
    case unknownReason(UInt8)
    case payloadTooLarge(kind: FrameKind, bytes: Int)
    case rangeOutOfBounds
    case malformedPayload(kind: FrameKind)
}

extension FrameError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .unknownKind(let value):
            "the peer sent a frame of unknown kind \(value); it is not PageFerry, or the stream is damaged"
        case .unknownReason(let value):
            "the peer sent a frame with the unknown reason \(value); the stream is damaged"
        case .payloadTooLarge(let kind, let bytes):
            "the peer announced \(bytes) bytes in a \(kind) frame, more than allowed; the stream is damaged or the peer hostile"
        case .rangeOutOfBounds:
            "the peer named pages outside the agreed regions; the stream is damaged or the peer hostile"
        case .malformedPayload(let kind):
            "the peer sent a \(kind) frame whose payload does not parse; the stream is damaged or the peer hostile"
        }
    }
}
