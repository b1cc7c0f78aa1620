import PageEngine
import PageWire

/// Why a session could not begin, or ended early. Every description is one line: what is wrong, and how to mend it.
public enum SessionError: Error, Sendable, Hashable {
    /// The peer speaks, but not our protocol.
    case notPageFerry(peer: String)
    /// No version is spoken by both.
    case versionMismatch(ours: ClosedRange<UInt16>, theirs: ClosedRange<UInt16>)
    /// Two sources or two destinations.
    case wrongRole(peer: String)
    /// What the two sides have as guest memory differs.
    case regionMismatch(String)
    /// The peer ended the session and said why.
    case peerFailed(Failure)
    /// A further connection for a session that this side does not have.
    case unknownSession
    /// The peer did not do in time what it had to.
    case timedOut(String)
    /// The connection broke; the text is the transport's.
    case linkLost(String)
    /// A connection could not be made; the text is the transport's.
    case cannotConnect(String)
    /// The source's name leads to no address; the text is the transport's.
    case unknownHost(String)
    case violation(EngineViolation)
    case damagedFrame(FrameError)
    /// A frame that has no place here.
    case unexpectedFrame(FrameKind)
    /// Guest memory could not be mapped, read or filled.
    case memory(String)
    /// A memory file is not there or may not be read.
    case cannotOpenMemory(String)
    /// A memory file is no whole number of pages.
    case unevenMemory(path: String, lengthBytes: Int, pageBytes: Int)
    /// The peer is not who it should be, or does not take this side for who it is; the text is that of TLS.
    case notTrusted(String)
    /// What proves who this side is cannot be used; the text is that of TLS.
    case badCredentials(String)
    /// What a daemon that takes over must know cannot be put down.
    case cannotKeepSession(String)
    /// The process whose memory this is has ended.
    case processEnded
    /// What a source serves is not there any more as it was; the text says why.
    case memoryLost(String)
    /// The machine state is larger than any.
    case machineStateTooLarge
    case cancelled
}

extension SessionError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .notPageFerry(let peer):
            "\(peer) does not speak PageFerry's protocol; check the address and port"
        case .versionMismatch(let ours, let theirs):
            "this host speaks protocol versions \(Self.text(ours)), the peer \(Self.text(theirs)); install the same PageFerry on both hosts"
        case .wrongRole(let peer):
            "\(peer) is on the same side as this host; connect a destination to a source"
        case .regionMismatch(let text):
            text
        case .peerFailed(let failure):
            "the peer ended the session: \(failure.text)"
        case .unknownSession:
            "a connection named a session this host does not have; start the destination again"
        case .timedOut(let what):
            "timed out: \(what)"
        case .linkLost(let text):
            "the link was lost: \(text)"
        case .cannotConnect(let text), .unknownHost(let text), .cannotOpenMemory(let text), .cannotKeepSession(let text),
            .notTrusted(let text),
            .badCredentials(let text):
            text
        case .violation(let violation):
            violation.description
        case .damagedFrame(let error):
            error.description
        case .unexpectedFrame(let kind):
            "the peer sent a \(kind) frame where none belongs; it is damaged or hostile, and the session ends"
        case .memory(let text), .memoryLost(let text):
            text
        case .unevenMemory(let path, let lengthBytes, let pageBytes):
            "the memory file '\(path)' has \(lengthBytes) bytes, which is not one or more whole pages of \(pageBytes) bytes; give a memory file as it was saved, or pad it with zeros"
        case .processEnded:
            "the process whose memory was being filled has ended"
        case .machineStateTooLarge:
            "the machine state exceeds \(MachineStateRelay.mostSpooledBytes >> 20) MiB, more than a VMM's device state; the session ends"
        case .cancelled:
            "cancelled"
        }
    }

    private static func text(_ versions: ClosedRange<UInt16>) -> String {
        versions.count == 1 ? "\(versions.lowerBound)" : "\(versions.lowerBound) to \(versions.upperBound)"
    }

    /// What the peer is told when this side ends the session for this reason.
    var failure: Failure {
        let code: FailureCode =
            switch self {
            case .versionMismatch: .versionMismatch
            case .regionMismatch: .regionMismatch
            case .wrongRole: .wrongRole
            case .unknownSession: .unknownSession
            case .violation, .damagedFrame, .unexpectedFrame, .notPageFerry, .machineStateTooLarge: .protocolViolation
            case .memory, .memoryLost, .cannotOpenMemory, .unevenMemory: .memory
            case .processEnded: .virtualMachine
            case .cancelled: .cancelled
            case .peerFailed(let failure): failure.code
            case .timedOut, .linkLost, .cannotConnect, .unknownHost, .cannotKeepSession, .notTrusted, .badCredentials: .unspecified
            }
        return Failure(code, description)
    }
}
