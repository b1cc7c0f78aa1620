import CShims
import Glibc

/// What the running kernel's io_uring can do, found out by trying.
public struct RingSupport: Sendable, Hashable {
    /// The operations and behaviours the transport uses or can use.
    public struct Features: OptionSet, Sendable, Hashable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }

        /// Receive, send, connect, accept, poll, cancel, time-outs: without these nothing works.
        public static let basics = Features(rawValue: 1 << 0)
        /// Completions are deferred to the one thread that waits for them (Linux 6.1).
        public static let deferredTaskWork = Features(rawValue: 1 << 1)
        /// One wait with a time-out and no extra operation (Linux 5.11).
        public static let waitTimeout = Features(rawValue: 1 << 2)
        /// Send without the kernel's copy (Linux 6.1).
        public static let zeroCopySend = Features(rawValue: 1 << 3)
    }

    public let features: Features

    /// Whether everything the transport cannot do without is there.
    public var isSufficient: Bool { features.isSuperset(of: [.basics, .waitTimeout]) }

    /// Asks the running kernel.
    public static func probe() throws(UringError) -> RingSupport {
        let ring = try Ring(entries: 4, completionEntries: 8)
        return ring.support()
    }

    /// The value of `kernel.io_uring_disabled`, nil when the kernel has no such setting.
    public static func disabledSetting() -> Int? {
        let descriptor = unsafe open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var digit: UInt8 = 0
        // SAFETY: one byte is read into one byte.
        guard unsafe read(descriptor, &digit, 1) == 1, digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
        return Int(digit - UInt8(ascii: "0"))
    }
}

extension Ring {
    /// What the kernel behind this ring can do. Allocates for the time of the call; not for the data path.
    public borrowing func support() -> RingSupport {
        var features: RingSupport.Features = []
        if setUpFlags & IORING_SETUP_DEFER_TASKRUN != 0 { features.insert(.deferredTaskWork) }
        if unsafe raw.pointee.features & UInt32(IORING_FEAT_EXT_ARG) != 0 { features.insert(.waitTimeout) }
        // SAFETY: the probe is allocated by the library, read here, and freed by the library.
        guard let probe = unsafe io_uring_get_probe_ring(raw) else { return RingSupport(features: features) }
        let basics = [
            IORING_OP_RECV, IORING_OP_RECVMSG, IORING_OP_SEND, IORING_OP_SENDMSG, IORING_OP_CONNECT, IORING_OP_ACCEPT,
            IORING_OP_POLL_ADD, IORING_OP_POLL_REMOVE, IORING_OP_ASYNC_CANCEL, IORING_OP_TIMEOUT, IORING_OP_LINK_TIMEOUT,
        ]
        if basics.allSatisfy({ unsafe io_uring_opcode_supported(probe, Int32($0.rawValue)) != 0 }) { features.insert(.basics) }
        if unsafe io_uring_opcode_supported(probe, Int32(IORING_OP_SENDMSG_ZC.rawValue)) != 0 { features.insert(.zeroCopySend) }
        unsafe io_uring_free_probe(probe)
        return RingSupport(features: features)
    }
}
