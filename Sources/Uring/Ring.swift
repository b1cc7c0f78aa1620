import CShims
import Glibc

/// The owner of one io_uring: submission and completion queues shared with the kernel (io_uring(7)).
///
/// The ring is created disabled and belongs to the thread that first submits or waits: it may be made on one thread and
/// handed to another before its first use, and is used by that one alone until the end. Nothing allocates after `init`.
@safe public struct Ring: ~Copyable {
    /// What a ring is for.
    public enum Purpose: Sendable {
        /// One thread, deferred task work: completions appear only when that thread enters the kernel, in batches.
        case dataPath
        /// Few operations, from whichever thread holds the ring.
        case setUp
    }

    // The kernel structures are addressed by the library, so they must not move: heap, owned here.
    let raw: UnsafeMutablePointer<io_uring>
    let timeout: UnsafeMutablePointer<__kernel_timespec>
    /// The set-up flags (`IORING_SETUP_*`) the kernel accepted.
    public let setUpFlags: UInt32
    /// The entries of the submission queue.
    public let entries: Int
    private let purpose: Purpose
    private var isEnabled: Bool
    private var owner: pthread_t = 0
    /// Whether system calls name the ring by its registered index, which spares a descriptor look-up.
    public private(set) var isRegistered = false

    /// - Parameters:
    ///   - entries: operations that can be prepared between two submissions; rounded up to a power of two.
    ///   - completionEntries: completions the kernel can hold before it has to buffer them itself.
    /// - Throws: `UringError` with the way to mend it.
    public init(entries: Int, completionEntries: Int, purpose: Purpose = .dataPath) throws(UringError) {
        precondition(entries > 0 && entries <= 4096 && completionEntries >= entries, "a ring has 1...4096 entries, and as many completions")
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        unsafe ring.initialize(to: io_uring())
        var accepted: UInt32?
        var status: Int32 = -EINVAL
        for flags in Self.flagChoices(purpose) where status == -EINVAL {
            var parameters = io_uring_params()
            parameters.flags = flags | IORING_SETUP_CQSIZE
            parameters.cq_entries = UInt32(completionEntries)
            // SAFETY: both structures outlive the call; the library writes the ring's own fields.
            status = unsafe io_uring_queue_init_params(UInt32(entries), ring, &parameters)
            if status == 0 { accepted = flags }
        }
        guard let accepted else {
            unsafe ring.deallocate()
            throw Self.setUpError(errno: -status)
        }
        unsafe raw = ring
        unsafe timeout = .allocate(capacity: 1)
        unsafe timeout.initialize(to: __kernel_timespec())
        setUpFlags = accepted
        self.entries = Int(unsafe ring.pointee.sq.ring_entries)
        self.purpose = purpose
        isEnabled = purpose == .setUp
    }

    deinit {
        // SAFETY: the ring was initialized and is released once; the kernel cancels what is still in flight.
        unsafe io_uring_queue_exit(raw)
        unsafe raw.deallocate()
        unsafe timeout.deallocate()
    }

    /// The flags to try, best first: each step gives up what the next older kernels lack (6.1, 6.0, 5.19, 5.6).
    private static func flagChoices(_ purpose: Purpose) -> [UInt32] {
        switch purpose {
        case .dataPath:
            let cooperative = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
            let single = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_R_DISABLED
            return [
                single | IORING_SETUP_DEFER_TASKRUN | cooperative,
                single | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
                single | cooperative,
                cooperative,
                0,
            ]
        case .setUp:
            return [0]
        }
    }

    /// Makes sure that the calling thread owns the ring; the first one to ask does. A check of our own: another thread
    /// would enter the kernel by a registered index that means nothing, or another ring, over there.
    @inline(__always)
    mutating func claim() throws(UringError) {
        if isEnabled {
            guard purpose == .setUp || pthread_equal(owner, pthread_self()) != 0 else { throw .wrongThread }
        } else {
            try enable()
        }
    }

    private mutating func enable() throws(UringError) {
        owner = pthread_self()
        defer { isEnabled = true }
        guard setUpFlags & IORING_SETUP_R_DISABLED != 0 else { return }
        // By its number: liburing 2.3 declares io_uring_enable_rings and does not export it.
        // SAFETY: the ring is initialized; the operation takes no argument.
        let status = unsafe io_uring_register(UInt32(raw.pointee.ring_fd), UInt32(IORING_REGISTER_ENABLE_RINGS), nil, 0)
        guard status >= 0 else { throw .submitFailed(errno: -status) }
        // A registered descriptor is per thread and there are few (16): without one, calls go by the descriptor.
        isRegistered = unsafe io_uring_register_ring_fd(raw) == 1
    }

    static func setUpError(errno number: Int32) -> UringError {
        switch number {
        case ENOSYS: .missing
        case EPERM, EACCES: .forbidden(disabledSetting: RingSupport.disabledSetting())
        case ENOMEM, EMFILE, ENFILE: .noResources(errno: number)
        default: .setUpFailed(errno: number)
        }
    }
}
