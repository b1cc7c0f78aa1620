import CShims
import Glibc

/// Why RDMA cannot be used, or stopped. One line each: what is wrong, and how to mend it.
public enum VerbsError: Error, Sendable, Hashable {
    /// Calls that fail with an errno and no more to say about it.
    public enum Call: String, Sendable, Hashable {
        case createEventChannel = "rdma_create_event_channel"
        case createIdentifier = "rdma_create_id"
        case migrate = "rdma_migrate_id"
        case listDevices = "ibv_get_device_list"
        case openDevice = "ibv_open_device"
        case allocateDomain = "ibv_alloc_pd"
        case createCompletionChannel = "ibv_create_comp_channel"
        case createCompletionQueue = "ibv_create_cq"
        case createQueuePair = "rdma_create_qp"
        case registerMemory = "ibv_reg_mr"
        case requestNotification = "ibv_req_notify_cq"
        case pollQueue = "ibv_poll_cq"
        case post = "ibv_post_send"
        case postReceive = "ibv_post_recv"
        case accept = "rdma_accept"
        case connect = "rdma_connect"
        case queryDevice = "ibv_query_device"
        case wait = "poll"
    }

    case failed(call: Call, errno: Int32)
    /// The process has no RDMA device at all, or may not use it.
    case noDevice(errno: Int32)
    /// Pinning `neededBytes` more would exceed the limit.
    case lockedMemoryLimit(limitBytes: Int, neededBytes: Int)
    case cannotResolve(host: String, reason: String)
    /// No RDMA device leads to the address.
    case noRoute(address: String, errno: Int32)
    case cannotListen(address: String, errno: Int32)
    case rejected(address: String)
    case unreachable(address: String, status: Int32)
    case timedOut(peer: String)
    /// The peer hung up.
    case disconnected(peer: String)
    case deviceRemoved
    case work(WorkStatus)
    /// The lanes of one session must use one device on each host.
    case differentDevices
}

extension VerbsError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .failed(let call, let number):
            "\(call.rawValue) failed: \(text(number))"
        case .noDevice(let number):
            "this host offers no RDMA device (\(text(number))); `pageferry check` says what is missing, or use --transport tcp"
        case .lockedMemoryLimit(let limit, let needed):
            "RDMA must lock \(needed >> 10) KiB of memory, and RLIMIT_MEMLOCK allows \(limit >> 10) KiB; raise it (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a systemd unit), or use --transport tcp"
        case .cannotResolve(let host, let reason):
            "the host \"\(host)\" cannot be resolved: \(reason); check the name, or give an IP address"
        case .noRoute(let address, let number):
            "no RDMA device leads to \(address) (\(text(number))); use an address of an interface with RDMA (`rdma link`), or --transport tcp"
        case .cannotListen(let address, let number):
            "cannot listen for RDMA connections on \(address): \(text(number)); use an address of an interface with RDMA (`rdma link`) and a free port, or --transport tcp"
        case .rejected(let address):
            "\(address) refuses RDMA connections; check that a source listens there with --transport rdma"
        case .unreachable(let address, let status):
            "\(address) cannot be reached by RDMA (status \(status)); check that the peer is running, and the network between"
        case .timedOut(let peer):
            "\(peer) did not answer in time; check that the peer is running and reachable"
        case .disconnected(let peer):
            "\(peer) closed the connection; see the peer's log for the reason"
        case .deviceRemoved:
            "the RDMA device was removed from this host"
        case .work(let status):
            "RDMA: \(status)"
        case .differentDevices:
            "the lanes of a session lead over different RDMA devices; give an address that belongs to one device"
        }
    }

    private func text(_ number: Int32) -> String {
        // SAFETY: the library's text is terminated, and copied at once.
        unsafe String(cString: strerror(number))
    }
}
