import COpenSSL
import Glibc

/// Credentials made ready for connections of one side: TLS 1.3 alone, both sides authenticated. Shared by any number of
/// connections and threads.
///
/// Sources: RFC 8446; OpenSSL 3: SSL_CTX_new(3), SSL_CTX_set_psk_client_callback(3), SSL_CTX_set_verify(3).
///
/// SAFETY: Sendable, because a context is not changed after its initializer, and OpenSSL counts its users atomically.
@safe public final class TLSContext: @unchecked Sendable {
    public enum Role: Sendable { case client, server }

    public let role: Role
    let raw: OpaquePointer
    /// Found by OpenSSL's callbacks; nil with certificates.
    private let secret: SharedSecret?

    public var usesSharedSecret: Bool { secret != nil }

    /// Pre-shared keys of this length go with SHA-256 only.
    private static let sharedSecretSuites = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
    private static let certificateSuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

    public init(_ credentials: TLSCredentials, role: Role) throws(TLSError) {
        ERR_clear_error()
        guard let context = unsafe SSL_CTX_new(role == .client ? TLS_client_method() : TLS_server_method()) else {
            throw .unavailable(reason: TLSError.takeReasons())
        }
        self.role = role
        unsafe raw = context
        if case .preSharedKey(let path) = credentials {
            do throws(TLSError) {
                secret = try SharedSecret(path: path)
            } catch {
                unsafe SSL_CTX_free(context)
                throw error
            }
        } else {
            secret = nil
        }
        try setUp(credentials)
    }

    deinit { unsafe SSL_CTX_free(raw) }

    private func setUp(_ credentials: TLSCredentials) throws(TLSError) {
        // SAFETY: the context lives as long as this value; the strings live for the calls, which copy them.
        unsafe SSL_CTX_ctrl(raw, SSL_CTRL_SET_MIN_PROTO_VERSION, Int(TLS1_3_VERSION), nil)
        // Sessions are not resumed: a lane lives as long as its session, and a ticket would be a record nobody expects.
        _ = unsafe SSL_CTX_set_num_tickets(raw, 0)
        unsafe SSL_CTX_ctrl(raw, SSL_CTRL_SET_SESS_CACHE_MODE, Int(SSL_SESS_CACHE_OFF), nil)
        unsafe SSL_CTX_ctrl(
            raw, SSL_CTRL_MODE, Int(SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER), nil)
        let suites = usesSharedSecret ? Self.sharedSecretSuites : Self.certificateSuites
        guard unsafe SSL_CTX_set_ciphersuites(raw, suites) == 1 else { throw .unavailable(reason: TLSError.takeReasons()) }
        // A pre-shared key stands for a session, and a session belongs to somebody.
        guard unsafe role == .client || SSL_CTX_set_session_id_context(raw, Self.identity, UInt32(Self.identity.count)) == 1 else {
            throw .unavailable(reason: TLSError.takeReasons())
        }
        // With a pre-shared key too: there is no authority then, so that a certificate in its place is refused.
        unsafe SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nil)
        switch credentials {
        case .preSharedKey: useSharedSecret()
        case .certificates(let chainPath, let keyPath, let authorityPath):
            try useCertificates(chainPath: chainPath, keyPath: keyPath, authorityPath: authorityPath)
        }
    }

    private func useCertificates(chainPath: String, keyPath: String, authorityPath: String) throws(TLSError) {
        try SecretFile.check(keyPath, forbiddenMode: 0o007)
        for path in [chainPath, authorityPath] {
            guard unsafe access(path, R_OK) == 0 else { throw .cannotRead(path: path, errno: errno) }
        }
        guard unsafe SSL_CTX_use_certificate_chain_file(raw, chainPath) == 1 else {
            throw .badFile(path: chainPath, what: "certificate", reason: TLSError.takeReasons())
        }
        guard unsafe SSL_CTX_use_PrivateKey_file(raw, keyPath, SSL_FILETYPE_PEM) == 1, unsafe SSL_CTX_check_private_key(raw) == 1 else {
            throw .badFile(path: keyPath, what: "private key of that certificate", reason: TLSError.takeReasons())
        }
        guard unsafe SSL_CTX_load_verify_locations(raw, authorityPath, nil) == 1 else {
            throw .badFile(path: authorityPath, what: "certificate of an authority", reason: TLSError.takeReasons())
        }
    }

    // MARK: The pre-shared key

    /// What both sides call the key; there is one.
    private static let identity: [UInt8] = Array("pageferry".utf8)

    private func useSharedSecret() {
        // SAFETY: the context holds a borrowed pointer to this value, which lives as long as the context is used: connections
        // keep their `TLSContext`.
        unsafe SSL_CTX_set_ex_data(raw, 0, Unmanaged.passUnretained(self).toOpaque())
        switch role {
        case .client:
            unsafe SSL_CTX_set_psk_client_callback(raw) { ssl, _, identity, identityLength, key, keyLength in
                guard let identity = unsafe identity, Int(identityLength) > TLSContext.identity.count else { return 0 }
                for (place, byte) in TLSContext.identity.enumerated() { unsafe identity[place] = CChar(bitPattern: byte) }
                unsafe identity[TLSContext.identity.count] = 0
                return unsafe TLSContext.giveSecret(of: ssl, key, keyLength)
            }
        case .server:
            unsafe SSL_CTX_set_psk_server_callback(raw) { ssl, identity, key, keyLength in
                guard let identity = unsafe identity,
                    unsafe String(cString: identity) == String(decoding: TLSContext.identity, as: UTF8.self)
                else { return 0 }
                return unsafe TLSContext.giveSecret(of: ssl, key, keyLength)
            }
        }
    }

    /// - Returns: the key's length; 0 for no key.
    private static func giveSecret(of ssl: OpaquePointer?, _ key: UnsafeMutablePointer<UInt8>?, _ keyLength: UInt32) -> UInt32 {
        // SAFETY: set by `useSharedSecret` to the context's owner, which the connection keeps; the key fits as checked.
        guard let context = unsafe SSL_get_SSL_CTX(ssl), let owner = unsafe SSL_CTX_get_ex_data(context, 0), let key = unsafe key,
            let secret = unsafe Unmanaged<TLSContext>.fromOpaque(owner).takeUnretainedValue().secret, secret.bytes.count <= Int(keyLength)
        else { return 0 }
        for (place, byte) in secret.bytes.enumerated() { unsafe key[place] = byte }
        return UInt32(secret.bytes.count)
    }
}
