import CShims

/// What became of a piece of work: the completion statuses of verbs (`enum ibv_wc_status`), by their names.
public enum WorkStatus: UInt32, Error, Sendable, Hashable, CaseIterable {
    case success = 0
    case localLength = 1
    case localQueuePairOperation = 2
    case localEndToEndOperation = 3
    case localProtection = 4
    case flushed = 5
    case memoryWindowBind = 6
    case badResponse = 7
    case localAccess = 8
    case remoteInvalidRequest = 9
    case remoteAccess = 10
    case remoteOperation = 11
    case retryExceeded = 12
    case receiverNotReadyRetryExceeded = 13
    case localDomainViolation = 14
    case remoteInvalidReadRequest = 15
    case remoteAborted = 16
    case invalidEndToEndNumber = 17
    case invalidEndToEndState = 18
    case fatal = 19
    case responseTimeout = 20
    case general = 21
    case tagMatching = 22
    case tagMatchingIncomplete = 23

    /// A status this build does not know counts as `general`.
    public init(code: UInt32) { self = WorkStatus(rawValue: code) ?? .general }
}

extension WorkStatus: CustomStringConvertible {
    /// The status's name, and what it means here.
    public var description: String {
        // SAFETY: the library's texts are constants.
        switch self {
        case .success: "success"
        case .flushed: "flushed: the queue pair had failed or was closed before"
        case .localProtection: "local protection error: memory of this host was not registered for it"
        case .localLength: "local length error: a message was longer than its buffer"
        case .remoteAccess: "remote access error: the peer's memory is not registered for it, or no longer"
        case .remoteInvalidRequest: "remote invalid request: the peer could not take the message"
        case .retryExceeded: "transport retry exceeded: the peer does not acknowledge; it is gone, or the network between is broken"
        case .receiverNotReadyRetryExceeded: "receiver-not-ready retry exceeded: the peer has no buffer left; it hangs"
        case .fatal: "fatal error of the device"
        default: "\(unsafe String(cString: ibv_wc_status_str(ibv_wc_status(rawValue))))"
        }
    }
}
