import COpenSSL
import Glibc

/// Why a stream could not be made secure, or is so no longer. Every description is one line.
public enum TLSError: Error, Sendable, Hashable {
    case cannotRead(path: String, errno: Int32)
    /// Others than its owner may read a secret.
    case secretIsOpen(path: String)
    case secretLength(path: String, bytes: Int)
    /// A PEM file does not hold what it should; the text is OpenSSL's.
    case badFile(path: String, what: String, reason: String)
    /// OpenSSL has no memory left, or was built without what is needed.
    case unavailable(reason: String)
    /// What came is no TLS.
    case notTLS(peer: String)
    /// The peer has not shown, or has not accepted, the right credentials; the text is OpenSSL's.
    case notTrusted(peer: String, reason: String)
    case timedOut(peer: String)
    /// The connection broke.
    case lost(peer: String)
    /// A record was damaged on its way; the text is OpenSSL's.
    case damaged(peer: String, reason: String)
}

extension TLSError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .cannotRead(let path, let errno):
            "cannot read '\(path)': \(Self.text(errno)); check the path and who may read it"
        case .secretIsOpen(let path):
            "'\(path)' holds a secret that others may read; chmod 600 it"
        case .secretLength(let path, let bytes):
            "the pre-shared key in '\(path)' has \(bytes) bytes, and takes \(SharedSecret.lengths.lowerBound) to \(SharedSecret.lengths.upperBound); make one with `openssl rand -hex 32`"
        case .badFile(let path, let what, let reason):
            "'\(path)' holds no \(what) that can be used: \(reason)"
        case .unavailable(let reason):
            "TLS cannot be used here: \(reason)"
        case .notTLS(let peer):
            "\(peer) does not speak TLS; give both sides the same kind of --tls options"
        case .notTrusted(let peer, let reason):
            "\(peer) and this host do not trust each other: \(reason); check both sides' --tls options"
        case .timedOut(let peer):
            "timed out: \(peer) did not finish the TLS handshake in time; check that it is running and speaks TLS"
        case .lost(let peer):
            "\(peer) closed the connection in the TLS handshake; check that both sides have the same kind of --tls options"
        case .damaged(let peer, let reason):
            "what came from \(peer) was damaged on its way: \(reason)"
        }
    }

    private static func text(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }

    /// What OpenSSL has to say about the last thing that failed on this thread; empties its list.
    static func takeReasons() -> String {
        var reasons: [String] = []
        while true {
            let code = ERR_get_error()
            guard code != 0 else { break }
            // SAFETY: the texts are constants of the library.
            if let text = unsafe ERR_reason_error_string(code) { unsafe reasons.append(String(cString: text)) }
        }
        return reasons.isEmpty ? "no reason given" : reasons.joined(separator: ", ")
    }
}
