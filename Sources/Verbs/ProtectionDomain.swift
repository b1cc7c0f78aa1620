import CShims
import Glibc

/// The owner of a protection domain: queue pairs and registered memory of one domain may be used together (ibv_alloc_pd(3)).
///
/// A class, for all lanes of a session and all memory registered for it hold on to the same one.
@safe public final class ProtectionDomain: @unchecked Sendable {
    // SAFETY: verbs' objects may be used from any thread (libibverbs is thread safe); nothing here changes after init.
    let raw: UnsafeMutablePointer<ibv_pd>

    /// A domain on the device an identifier leads over.
    public init(of identifier: borrowing ConnectionIdentifier) throws(VerbsError) {
        guard let context = unsafe identifier.raw.pointee.verbs else { throw .noDevice(errno: ENODEV) }
        guard let domain = unsafe ibv_alloc_pd(context) else { throw .failed(call: .allocateDomain, errno: errno) }
        unsafe raw = domain
    }

    deinit {
        // SAFETY: whatever was made in the domain holds a reference to this object, so nothing is left.
        unsafe ibv_dealloc_pd(raw)
    }

    /// Whether an identifier leads over this domain's device.
    public func covers(_ identifier: borrowing ConnectionIdentifier) -> Bool {
        unsafe identifier.raw.pointee.verbs == raw.pointee.context
    }
}

/// What a peer, or this host's device, may do with registered memory.
public struct MemoryAccess: OptionSet, Sendable, Hashable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The device of this host may write: for what is received, and read from the peer.
    public static let localWrite = MemoryAccess(rawValue: IBV_ACCESS_LOCAL_WRITE.rawValue)
    /// The peer may read.
    public static let remoteRead = MemoryAccess(rawValue: IBV_ACCESS_REMOTE_READ.rawValue)
    /// The peer may write. Verbs demands `localWrite` with it.
    public static let remoteWrite = MemoryAccess(rawValue: IBV_ACCESS_REMOTE_WRITE.rawValue)
}

/// The owner of a registration: the memory stays pinned, and known to the device, for as long as it lives (ibv_reg_mr(3)).
///
/// Registering allocates whatever of a file's pages is absent. A page whose file is punched afterwards stays pinned as an
/// orphan: the registration is stale there.
@safe public struct MemoryRegistration: ~Copyable, @unchecked Sendable {
    private let raw: UnsafeMutablePointer<ibv_mr>
    private let domain: ProtectionDomain
    public let address: UInt
    public let lengthBytes: Int
    /// What work of this host names the memory by.
    public let localKey: UInt32
    /// What the peer names it by.
    public let remoteKey: UInt32

    /// - Parameters:
    ///   - address: of memory that stays mapped for as long as the registration lives.
    ///   - access: what it is registered for. Memory that is only read locally needs none.
    /// - Throws: `.lockedMemoryLimit` when RLIMIT_MEMLOCK forbids it.
    public init(
        _ domain: ProtectionDomain, address: UInt, lengthBytes: Int, access: MemoryAccess
    ) throws(VerbsError) {
        // SAFETY: the kernel checks the range; the device touches it only as work says.
        guard let region = unsafe pageferry_verbs_register(domain.raw, UInt64(address), UInt64(lengthBytes), access.rawValue) else {
            let number = errno
            let limit = LockedMemory.limitBytes
            if number == ENOMEM, let limit, !LockedMemory.isUnbounded {
                throw .lockedMemoryLimit(limitBytes: limit, neededBytes: LockedMemory.pinnedBytes + lengthBytes)
            }
            throw .failed(call: .registerMemory, errno: number)
        }
        unsafe raw = region
        self.domain = domain
        self.address = address
        self.lengthBytes = lengthBytes
        localKey = unsafe region.pointee.lkey
        remoteKey = unsafe region.pointee.rkey
    }

    deinit {
        // SAFETY: whoever posts work that names the memory keeps this value until the work has completed.
        unsafe ibv_dereg_mr(raw)
    }
}
