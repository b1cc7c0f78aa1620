import CShims
import Glibc
import PageCore

/// What the connection manager tells (rdma_get_cm_event(3)), as far as it matters here.
public enum ConnectionEvent: Sendable, Hashable {
    case addressResolved
    case routeResolved
    case connectRequest
    case established
    case disconnected
    case rejected
    case unreachable(status: Int32)
    case failed(status: Int32)
    case deviceRemoved
    /// Of no consequence: the queue pair's memory of old packets has expired, a multicast or address change.
    case other
}

/// The owner of a channel on which the connection manager's events arrive (rdma_create_event_channel(3)).
///
/// Goes after the identifiers that report to it.
@safe public struct EventChannel: ~Copyable {
    let raw: UnsafeMutablePointer<rdma_event_channel>

    public init() throws(VerbsError) {
        guard let channel = unsafe rdma_create_event_channel() else {
            let number = errno
            switch number {
            case ENODEV, ENOENT, EACCES, EPERM: throw .noDevice(errno: number)
            default: throw .failed(call: .createEventChannel, errno: number)
            }
        }
        let status = unsafe pageferry_verbs_set_nonblocking(channel.pointee.fd)
        guard status == 0 else {
            unsafe rdma_destroy_event_channel(channel)
            throw .failed(call: .createEventChannel, errno: -status)
        }
        unsafe raw = channel
    }

    deinit {
        // SAFETY: destroyed once, after its identifiers.
        unsafe rdma_destroy_event_channel(raw)
    }

    /// Readable while an event waits.
    public var descriptor: Int32 { unsafe raw.pointee.fd }

    /// The next event, if one waits.
    public mutating func nextEvent() -> ConnectionEvent? {
        guard let (event, request) = take() else { return nil }
        // A connection request nobody accepts here is refused by destroying its identifier.
        discard(request)
        return event
    }

    /// The next connection request, or nil when none waits. What else comes on a listener's channel is dropped.
    public mutating func nextRequest() throws(VerbsError) -> ConnectionIdentifier? {
        while let (event, request) = take() {
            switch event {
            case .connectRequest:
                guard let identifier = unsafe request.identifier else { continue }
                return unsafe ConnectionIdentifier(adopting: identifier)
            case .deviceRemoved: throw .deviceRemoved
            default: continue
            }
        }
        return nil
    }

    /// An identifier that came with an event. `@safe`: holding it does nothing.
    @safe private struct Request {
        let identifier: UnsafeMutablePointer<rdma_cm_id>?
    }

    private func discard(_ request: Request) {
        if let identifier = unsafe request.identifier { unsafe _ = ConnectionIdentifier(adopting: identifier) }
    }

    private func take() -> (ConnectionEvent, Request)? {
        var event: UnsafeMutablePointer<rdma_cm_event>?
        // SAFETY: the library hands out an event that stays valid until it is acknowledged below.
        guard unsafe rdma_get_cm_event(raw, &event) == 0, let taken = unsafe event else { return nil }
        let status = unsafe taken.pointee.status
        var request = unsafe Request(identifier: nil)
        let meaning: ConnectionEvent =
            switch unsafe taken.pointee.event {
            case RDMA_CM_EVENT_ADDR_RESOLVED: .addressResolved
            case RDMA_CM_EVENT_ROUTE_RESOLVED: .routeResolved
            case RDMA_CM_EVENT_CONNECT_REQUEST: .connectRequest
            case RDMA_CM_EVENT_ESTABLISHED: .established
            case RDMA_CM_EVENT_DISCONNECTED: .disconnected
            case RDMA_CM_EVENT_REJECTED: .rejected
            case RDMA_CM_EVENT_UNREACHABLE: .unreachable(status: status)
            case RDMA_CM_EVENT_ADDR_ERROR, RDMA_CM_EVENT_ROUTE_ERROR, RDMA_CM_EVENT_CONNECT_ERROR: .failed(status: status)
            case RDMA_CM_EVENT_DEVICE_REMOVAL: .deviceRemoved
            default: .other
            }
        if meaning == .connectRequest { unsafe request = Request(identifier: taken.pointee.id) }
        unsafe rdma_ack_cm_event(taken)
        return (meaning, request)
    }

    /// Waits until an event can be read.
    ///
    /// - Parameter wake: a descriptor that ends the wait as soon as it is readable.
    /// - Returns: false when the time was over, or `wake` was readable first.
    public func wait(until deadlineNanoseconds: UInt64, wake: Int32? = nil) throws(VerbsError) -> Bool {
        var waits = [pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)]
        if let wake { waits.append(pollfd(fd: wake, events: Int16(POLLIN), revents: 0)) }
        while true {
            let now = MonotonicClock.nowNanoseconds()
            if now >= deadlineNanoseconds { return false }
            let rest = deadlineNanoseconds == .max ? -1 : Int32(min((deadlineNanoseconds - now) / 1_000_000 + 1, 1 << 30))
            // SAFETY: the array outlives the call.
            let answer = unsafe waits.withUnsafeMutableBufferPointer { unsafe Glibc.poll($0.baseAddress, nfds_t($0.count), rest) }
            if answer < 0, errno != EINTR { throw .failed(call: .wait, errno: errno) }
            if answer > 0 { return waits[0].revents != 0 && (waits.count == 1 || waits[1].revents == 0) }
        }
    }
}
