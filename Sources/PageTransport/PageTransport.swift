import PageWire

/// The number of a lane in its transport. Lane 0 is the urgent lane: demands and their answers, and everything that is
/// not page bytes. Lanes 1 and up are bulk lanes.
public struct LaneIndex: Sendable, Hashable {
    public let rawValue: UInt8
    @inlinable public init(_ rawValue: UInt8) { self.rawValue = rawValue }
    public static let urgent = LaneIndex(0)
}

/// Where a frame's payload goes.
///
/// SAFETY: `@safe` because holding the address does nothing; only the transport dereferences it, within the payload's
/// length and before `arrived` or `closed`.
@safe public enum PayloadTarget {
    /// To this address, the whole payload, directly from the wire. The memory stays valid and untouched by others
    /// until `arrived` or `closed` is called for the lane.
    case memory(UnsafeMutableRawPointer)
    /// Nowhere: the bytes are read off the wire and dropped; `arrived` is still called.
    case discard
}

/// What a transport tells its owner, during `poll` only. One conformance per session; called statically, never boxed.
public protocol TransportHandler: ~Copyable {
    /// A header with a payload has arrived: say where the payload goes. Called once a frame, in wire order of its lane.
    /// A thrown error closes the lane with `.refused`.
    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget
    /// A whole frame is here, its payload (if any) where `place` said. In wire order of its lane. A frame without a
    /// payload comes here directly. Memory given to `place` belongs to the handler again; it may be reused for the
    /// next `place` as soon as this returns.
    mutating func arrived(_ header: FrameHeader, lane: LaneIndex)
    /// The payload memory of a frame submitted with `token` is no longer referenced by the transport or the kernel.
    mutating func sent(_ token: UInt64, lane: LaneIndex)
    /// A watched descriptor is readable (or hung up): read it until it would block.
    mutating func readable(_ token: UInt64)
    /// What `fetch` was asked for with `token` lies whole in its place, which belongs to the handler again.
    mutating func fetched(_ token: UInt64, lane: LaneIndex)
    /// The peer has written `byteCount` bytes into memory of ours that it was let into, and names them by `immediate`.
    mutating func written(_ immediate: UInt32, byteCount: Int, lane: LaneIndex)
    /// A spinning transport asks whether a descriptor watched eagerly has anything: read it until it would block.
    ///
    /// - Returns: whether there was anything.
    mutating func tried(_ token: UInt64) -> Bool
    /// The lane is gone: orderly end of stream, or an error. Nothing more will be called for it.
    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure)
}

extension TransportHandler where Self: ~Copyable {
    // For those who watch nothing eagerly, and neither fetch nor let anybody write.
    public mutating func tried(_ token: UInt64) -> Bool { false }
    public mutating func fetched(_ token: UInt64, lane: LaneIndex) {}
    public mutating func written(_ immediate: UInt32, byteCount: Int, lane: LaneIndex) {}
}

/// Why a lane ended.
public enum LaneClosure: Sendable, Hashable {
    /// The peer ended the stream between two frames.
    case endOfStream
    /// The peer ended the stream inside a frame.
    case truncated
    /// The kernel's error number for the connection.
    case failed(errno: Int32)
    /// The device's status for a piece of work that failed (`enum ibv_wc_status`).
    case failedWork(code: UInt32)
    /// Bytes that are no frame, or that the handler refused.
    case refused(FrameError)
}

/// How long `poll` may wait for something to happen.
public struct WaitPolicy: Sendable, Hashable {
    /// Spin this long before sleeping; 0 sleeps at once, `.max` never sleeps.
    public var spinNanoseconds: UInt64
    /// Return empty-handed after this long.
    public var timeoutNanoseconds: UInt64
    @inlinable
    public init(spinNanoseconds: UInt64 = 0, timeoutNanoseconds: UInt64) {
        self.spinNanoseconds = spinNanoseconds
        self.timeoutNanoseconds = timeoutNanoseconds
    }
    /// Take what is there and return.
    public static let immediate = WaitPolicy(timeoutNanoseconds: 0)
}

/// The burst contract of a transport's data path: submit, flush, poll. One thread owns a transport.
///
/// Frames submitted on one lane arrive in that order; lanes are independent. Nothing is sent before `flush`.
/// Everything here is bounded: a full queue answers false, and never grows.
public protocol PageTransport: ~Copyable {
    /// The number of lanes, the urgent one included.
    var laneCount: Int { get }

    /// Queues a frame whose payload is `payload`, sent from where it lies, without a copy in user space.
    ///
    /// - Parameters:
    ///   - header: its `payloadBytes` equals `payload.count`.
    ///   - payload: stays valid and unchanged until `sent(token)`.
    ///   - token: passed to `sent` once the memory is free again.
    /// - Returns: false when the lane's queue is full or the lane is gone.
    mutating func submit(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64, lane: LaneIndex) -> Bool

    /// Queues a frame without a payload, or with a control payload that is copied (at most
    /// `FrameLimits.mostControlBytes`); no `sent` follows.
    ///
    /// - Returns: false when the lane's queue is full, or no copy slot is free, or the lane is gone.
    mutating func submit(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?, lane: LaneIndex) -> Bool

    /// Frames that `submit` would still accept on the lane.
    func freeSlots(_ lane: LaneIndex) -> Int

    /// Bytes queued or handed to the kernel on the lane and not yet accepted by the connection's send buffer.
    func pendingBytes(_ lane: LaneIndex) -> Int

    /// Bounds what one operation on a bulk lane takes from now on, so that an urgent frame waits for no more than that; nil
    /// goes back to the largest. Costs nothing when it changes nothing.
    mutating func limitBursts(toBytes bytes: Int?)

    /// Hands everything queued to the kernel.
    mutating func flush()

    /// As `flush`, for one lane: no other lane's work stands between a demand and its doorbell.
    mutating func flush(_ lane: LaneIndex)

    /// Calls `handler` for the one-sided work that has completed, without a system call: what an owner who spins for an answer
    /// does between two looks at his own descriptors.
    ///
    /// - Parameter isFull: for what has come on lanes that await no answer too.
    /// - Returns: whether there was any.
    mutating func glance<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, isFull: Bool) -> Bool

    /// Flushes, then calls `handler` for what has happened, waiting at most as `wait` says when nothing has.
    mutating func poll<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, wait: WaitPolicy)

    /// Whether the last `poll` spun for as long as it might, and nothing came.
    var didSpinInVain: Bool { get }

    /// Watches a descriptor for readability until `unwatch`; `handler.readable(token)` is called while it is readable.
    mutating func watch(descriptor: Int32, token: UInt64)
    mutating func unwatch(token: UInt64)

    /// As `watch`, for a descriptor worth a system call of its own at every turn of a spin: `handler.tried(token)` looks at
    /// it directly.
    mutating func watchEagerly(descriptor: Int32, token: UInt64)

    /// Sends what is queued as far as it goes, then closes every lane.
    mutating func close()

    /// Ends every lane at once: what is queued or on its way is lost. When it returns, nothing of theirs touches memory any more.
    mutating func abandon()

    // MARK: One-sided access, for transports that have it (RDMA)

    /// Pieces of work `fetch` and `write` would still accept on the lane; 0 when the transport has no such thing.
    func freeOneSided(_ lane: LaneIndex) -> Int

    /// Queues a read of the peer's memory into memory of ours, without its processor. Reads of a lane complete in order.
    ///
    /// - Parameters:
    ///   - local: registered; untouched by others until `fetched(token)` or `closed`.
    ///   - token: at most 48 bits.
    /// - Returns: false when the lane has no room for it, or is gone.
    mutating func fetch(_ byteCount: Int, from remote: RemoteMemory, into local: LocalMemory, token: UInt64, lane: LaneIndex) -> Bool

    /// Queues a write of memory of ours into the peer's, which learns of it by `written(immediate)`.
    ///
    /// - Parameters:
    ///   - local: registered; unchanged until `sent(token)` or `closed`.
    ///   - token: at most 48 bits.
    /// - Returns: false when the lane has no room for it, or is gone.
    mutating func write(
        _ byteCount: Int, from local: LocalMemory, to remote: RemoteMemory, immediate: UInt32, token: UInt64, lane: LaneIndex
    ) -> Bool
}

/// An address in the peer's memory, and the key under which the peer registered it.
public struct RemoteMemory: Sendable, Hashable {
    public var address: UInt64
    public var key: UInt32

    @inlinable public init(address: UInt64, key: UInt32) {
        self.address = address
        self.key = key
    }
}

/// An address in this process's memory, and the key under which it is registered.
public struct LocalMemory: Sendable, Hashable {
    public var address: UInt
    public var key: UInt32

    @inlinable public init(address: UInt, key: UInt32) {
        self.address = address
        self.key = key
    }
}

extension PageTransport where Self: ~Copyable {
    // A transport that sees no gain in it.
    public mutating func watchEagerly(descriptor: Int32, token: UInt64) { watch(descriptor: descriptor, token: token) }

    public mutating func flush(_ lane: LaneIndex) { flush() }

    // A transport without one-sided access.
    public mutating func glance<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, isFull: Bool) -> Bool { false }

    public func freeOneSided(_ lane: LaneIndex) -> Int { 0 }

    public mutating func fetch(
        _ byteCount: Int, from remote: RemoteMemory, into local: LocalMemory, token: UInt64, lane: LaneIndex
    ) -> Bool { false }

    public mutating func write(
        _ byteCount: Int, from local: LocalMemory, to remote: RemoteMemory, immediate: UInt32, token: UInt64, lane: LaneIndex
    ) -> Bool { false }
}
