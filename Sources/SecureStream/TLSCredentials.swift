import Glibc

/// What proves to a peer who this side is, and by what the peer is known. Secrets are read from files when a `TLSContext` is made;
/// they are never in arguments, the environment, or error texts.
public enum TLSCredentials: Sendable, Hashable {
    /// A certificate on each side, both from authorities the other trusts.
    ///
    /// - Parameters:
    ///   - chainPath: PEM; this side's certificate first, then those between it and an authority.
    ///   - keyPath: PEM; the certificate's private key, which others than its owner and group may not read.
    ///   - authorityPath: PEM; the authorities whose certificates are believed.
    case certificates(chainPath: String, keyPath: String, authorityPath: String)
    /// A secret that both sides know: the bytes of a file that nobody but its owner may read, less line ends at its end; 16 to
    /// 256 bytes.
    case preSharedKey(path: String)
}

/// The bytes of a pre-shared key.
struct SharedSecret: Sendable {
    let bytes: [UInt8]

    static let lengths = 16...256

    init(path: String) throws(TLSError) {
        try SecretFile.check(path, forbiddenMode: 0o077)
        bytes = try Self.trimmed(SecretFile.read(path, mostBytes: 4096))
        guard Self.lengths.contains(bytes.count) else { throw .secretLength(path: path, bytes: bytes.count) }
    }

    private static func trimmed(_ bytes: [UInt8]) -> [UInt8] {
        var bytes = bytes
        while let last = bytes.last, last == UInt8(ascii: "\n") || last == UInt8(ascii: "\r") { bytes.removeLast() }
        return bytes
    }
}

/// A file that holds a secret.
enum SecretFile {
    /// Refuses a file whose mode lets others at the secret.
    static func check(_ path: String, forbiddenMode: mode_t) throws(TLSError) {
        var status = stat()
        // SAFETY: the path is terminated and lives for the call, which fills the local structure.
        guard unsafe stat(path, &status) == 0 else { throw .cannotRead(path: path, errno: errno) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw .cannotRead(path: path, errno: EINVAL) }
        guard status.st_mode & forbiddenMode == 0 else { throw .secretIsOpen(path: path) }
    }

    static func read(_ path: String, mostBytes: Int) throws(TLSError) -> [UInt8] {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .cannotRead(path: path, errno: errno) }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: mostBytes + 1)
        var filled = 0
        while filled < buffer.count {
            // SAFETY: the kernel writes within the rest of the buffer.
            let count = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(descriptor, $0.baseAddress! + filled, $0.count - filled) }
            guard count >= 0 else { throw .cannotRead(path: path, errno: errno) }
            if count == 0 { break }
            filled += count
        }
        guard filled <= mostBytes else { throw .secretLength(path: path, bytes: filled) }
        buffer.removeLast(buffer.count - filled)
        return buffer
    }
}
