import COpenSSL
import Glibc

/// One secure stream over a connected nonblocking socket, driven by whoever polls it. No allocation per record: OpenSSL keeps its
/// buffers.
///
/// The caller must have SIGPIPE blocked or ignored on the thread that uses this: OpenSSL writes with write(2).
///
/// Sources: SSL_read(3), SSL_get_error(3), SSL_shutdown(3).
///
/// SAFETY: the stream belongs to this value from its initializer to its end, and to one thread at a time.
@safe public struct TLSConnection: ~Copyable {
    /// What an operation on the stream came to.
    public enum Outcome: Sendable, Hashable {
        /// So many bytes, or done.
        case moved(Int)
        /// Nothing until the socket is readable.
        case wantsRead
        /// Nothing until the socket is writable.
        case wantsWrite
        /// The peer has said that nothing more comes.
        case ended
    }

    private let raw: OpaquePointer
    private let context: TLSContext
    private let peer: String

    /// - Parameters:
    ///   - socket: stays the caller's, who closes it after this is gone.
    ///   - peer: for messages.
    ///   - peerName: a host name or IP address that the peer's certificate must carry; nil takes any certificate of the authority.
    ///     Means nothing with a pre-shared key.
    public init(_ context: TLSContext, socket: Int32, peer: String, peerName: String?) throws(TLSError) {
        unsafe raw = try Self.make(context, socket: socket)
        self.context = context
        self.peer = peer
        if let peerName, !context.usesSharedSecret { unsafe Self.expect(peerName, of: raw, isServer: context.role == .client) }
    }

    private static func make(_ context: TLSContext, socket: Int32) throws(TLSError) -> OpaquePointer {
        ERR_clear_error()
        guard let ssl = unsafe SSL_new(context.raw) else { throw .unavailable(reason: TLSError.takeReasons()) }
        guard unsafe SSL_set_fd(ssl, socket) == 1 else {
            unsafe SSL_free(ssl)
            throw .unavailable(reason: TLSError.takeReasons())
        }
        switch context.role {
        case .client: unsafe SSL_set_connect_state(ssl)
        case .server: unsafe SSL_set_accept_state(ssl)
        }
        return unsafe ssl
    }

    deinit { unsafe SSL_free(raw) }

    private static func expect(_ name: String, of ssl: OpaquePointer, isServer: Bool) {
        let parameters = unsafe SSL_get0_param(ssl)
        // SAFETY: the parameters belong to the stream; the name lives for the calls, which copy it.
        if unsafe X509_VERIFY_PARAM_set1_ip_asc(parameters, name) == 1 { return }
        ERR_clear_error()
        unsafe X509_VERIFY_PARAM_set_hostflags(parameters, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
        _ = unsafe X509_VERIFY_PARAM_set1_host(parameters, name, 0)
        // Tells a server with several certificates which is wanted (RFC 6066).
        if isServer {
            var text = Array(name.utf8CString)
            _ = unsafe text.withUnsafeMutableBytes {
                unsafe SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, Int(TLSEXT_NAMETYPE_host_name), $0.baseAddress)
            }
        }
    }

    /// Goes on with the handshake; `.moved` once it is over and the peer is who it should be.
    public mutating func handshake() throws(TLSError) -> Outcome {
        ERR_clear_error()
        let status = unsafe SSL_do_handshake(raw)
        if status == 1 {
            // A key that both know is the only thing that stands for a peer without a certificate.
            guard unsafe !context.usesSharedSecret || SSL_session_reused(raw) == 1 else {
                throw .notTrusted(peer: peer, reason: "the pre-shared key was not used")
            }
            return .moved(0)
        }
        return try outcome(of: status, inHandshake: true)
    }

    /// Takes decrypted bytes, as many as there are and fit.
    public mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(TLSError) -> Outcome {
        ERR_clear_error()
        var count = 0
        // SAFETY: OpenSSL writes within the buffer's bounds.
        let status = unsafe SSL_read_ex(raw, buffer.baseAddress, buffer.count, &count)
        return status == 1 ? .moved(count) : try outcome(of: status, inHandshake: false)
    }

    /// Encrypts and sends bytes, as many as the socket takes.
    public mutating func write(_ buffer: UnsafeRawBufferPointer) throws(TLSError) -> Outcome {
        ERR_clear_error()
        var count = 0
        // SAFETY: OpenSSL reads within the buffer's bounds.
        let status = unsafe SSL_write_ex(raw, buffer.baseAddress, buffer.count, &count)
        return status == 1 ? .moved(count) : try outcome(of: status, inHandshake: false)
    }

    /// Tells the peer that nothing more comes; what it still sends can be read. Best effort.
    public mutating func sayEnd() {
        _ = unsafe SSL_shutdown(raw)
        ERR_clear_error()
    }

    private func outcome(of status: Int32, inHandshake: Bool) throws(TLSError) -> Outcome {
        switch unsafe SSL_get_error(raw, status) {
        case SSL_ERROR_WANT_READ: return .wantsRead
        case SSL_ERROR_WANT_WRITE: return .wantsWrite
        case SSL_ERROR_ZERO_RETURN: return .ended
        case SSL_ERROR_SYSCALL: throw .lost(peer: peer)
        default: throw failure(inHandshake: inHandshake)
        }
    }

    private func failure(inHandshake: Bool) -> TLSError {
        let code = ERR_peek_error()
        let reasonCode = Int32(truncatingIfNeeded: code & 0x7F_FFFF)
        let verification = unsafe SSL_get_verify_result(raw)
        var reason = TLSError.takeReasons()
        if verification != Int(X509_V_OK), let text = unsafe X509_verify_cert_error_string(verification) {
            unsafe reason = String(cString: text)
        }
        switch reasonCode {
        case SSL_R_UNEXPECTED_EOF_WHILE_READING: return .lost(peer: peer)
        case SSL_R_WRONG_VERSION_NUMBER, SSL_R_HTTP_REQUEST, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_NO_PROTOCOLS_AVAILABLE,
            SSL_R_UNEXPECTED_MESSAGE, SSL_R_BAD_RECORD_TYPE:
            return inHandshake ? .notTLS(peer: peer) : .damaged(peer: peer, reason: reason)
        default: return inHandshake ? .notTrusted(peer: peer, reason: reason) : .damaged(peer: peer, reason: reason)
        }
    }
}
