import CShims
import Glibc

/// A listening socket. Owns its descriptor and, for a unix socket, the file it made.
///
/// SAFETY: Sendable, because it has one owner, and changes only through its mutating methods.
public struct StreamListener: ~Copyable, @unchecked Sendable {
    private let descriptor: Descriptor
    private var ring: SetUpRing
    private let options: StreamOptions
    /// The address in force: with port 0 asked for, the port the kernel chose.
    public let address: StreamAddress
    /// The socket file this listener made, by identity: a successor's file at the same path is left alone.
    private let file: SocketFile?

    /// Binds and listens. A unix socket is made for its owner alone (mode 0600); a dead one at the path is replaced, a
    /// living one refused.
    public init(on wanted: StreamAddress, options: StreamOptions = StreamOptions()) throws(StreamError) {
        let listening = try Self.listen(on: wanted)
        let bound = unsafe SocketAddress.read { unsafe getsockname(listening.raw, $0, $1) }
        let file = wanted.path.flatMap { SocketFile(path: $0) }
        do { ring = try SetUpRing() } catch {
            file?.remove()
            throw error
        }
        descriptor = listening
        address = bound?.numeric ?? wanted
        self.file = file
        self.options = options
    }

    deinit {
        file?.remove()
    }

    /// Connections the kernel completes ahead of `accept`.
    private static let backlog: Int32 = 64

    /// The listening socket, for polling; stays owned here.
    public var rawDescriptor: Int32 { descriptor.raw }

    /// Waits for one connection.
    ///
    /// - Parameter wake: a descriptor (an eventfd, say) that ends the wait as soon as it is readable.
    /// - Returns: nil when the time was over or `wake` became readable first.
    public mutating func accept(timeoutNanoseconds: UInt64, wake: Int32? = nil) throws(StreamError) -> StreamConnection? {
        let deadline = Deadline(after: timeoutNanoseconds)
        for _ in 0..<Self.mostAborted {
            let result = try ring.accept(descriptor.raw, wake: wake, deadline: deadline)
            switch result {
            case 0...:
                let connection = try StreamConnection(adopting: result, path: address.path, options: options)
                // Another user's process is sent away without a word.
                if let peer = connection.peerCredentials, !peer.isTrusted { continue }
                return connection
            case -ETIME, -ECANCELED: return nil
            // The peer was gone before it was accepted (accept(2)): take the next one.
            case -ECONNABORTED, -EPROTO, -EINTR: continue
            default: throw .cannotListen(address: address.description, errno: -result)
            }
        }
        return nil
    }

    /// Connections given up by their peers before being accepted, or by strangers, that one call passes over.
    private static let mostAborted = 64

    /// A listening socket on the first of the address's forms that can be bound.
    private static func listen(on wanted: StreamAddress) throws(StreamError) -> Descriptor {
        var failure: StreamError = .cannotListen(address: wanted.description, errno: EADDRNOTAVAIL)
        for form in try SocketAddress.resolve(wanted, listening: true) {
            do throws(StreamError) { return try listen(on: form, wanted: wanted) } catch { failure = error }
        }
        throw failure
    }

    private static func listen(on form: SocketAddress, wanted: StreamAddress) throws(StreamError) -> Descriptor {
        let number = systemCall { socket(form.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0) }
        guard number >= 0 else { throw .socketFailed(errno: -number) }
        let candidate = Descriptor(owning: number)
        try bind(number, form, wanted: wanted)
        let status = systemCall { Glibc.listen(number, backlog) }
        if status == 0 { return candidate }
        if let path = wanted.path { _ = systemCall { unsafe unlink(path) } }
        throw status == -EADDRINUSE
            ? .addressInUse(address: wanted.description) : .cannotListen(address: wanted.description, errno: -status)
    }

    private static func bind(_ number: Int32, _ form: SocketAddress, wanted: StreamAddress) throws(StreamError) {
        if let path = wanted.path {
            // The socket's own mode becomes the file's: nobody else may connect to what reads a guest's memory.
            _ = systemCall { fchmod(number, 0o600) }
            try SocketFile.clear(path: path, form: form)
        } else {
            SocketOption.set(number, level: SOL_SOCKET, SO_REUSEADDR, 1)
        }
        let status = unsafe form.withKernelForm { form, length in systemCall { unsafe Glibc.bind(number, form, length) } }
        guard status != -EADDRINUSE else { throw .addressInUse(address: wanted.description) }
        guard status == 0 else { throw .cannotListen(address: wanted.description, errno: -status) }
    }
}

/// The file of a unix socket.
struct SocketFile {
    private let path: String
    private let device: UInt
    private let inode: UInt

    init?(path: String) {
        guard let status = Self.status(path) else { return nil }
        self.path = path
        device = status.st_dev
        inode = status.st_ino
    }

    private static func status(_ path: String) -> stat? {
        var status = stat()
        // SAFETY: the structure outlives the call.
        return systemCall { unsafe lstat(path, &status) } == 0 ? status : nil
    }

    /// Removes the file if it is still the one that was made.
    func remove() {
        guard let now = Self.status(path), now.st_dev == device, now.st_ino == inode else { return }
        _ = systemCall { unsafe unlink(path) }
    }

    /// Makes way at `path`: a socket nobody listens on is removed; anything else that is there is an error.
    static func clear(path: String, form: SocketAddress) throws(StreamError) {
        guard let status = status(path) else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path: path) }
        let probe = systemCall { socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0) }
        guard probe >= 0 else { throw .socketFailed(errno: -probe) }
        defer { close(probe) }
        let answer = unsafe form.withKernelForm { form, length in systemCall { unsafe connect(probe, form, length) } }
        // Only a refusal proves that nobody listens; a full backlog (EAGAIN) or a lack of rights does not.
        guard answer == -ECONNREFUSED else { throw .addressInUse(address: "unix:\(path)") }
        _ = systemCall { unsafe unlink(path) }
    }
}
