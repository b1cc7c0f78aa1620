import PageTransport
import PageWire
import Uring

/// Frames over TCP and unix stream sockets, through one io_uring: lane 0 urgent, the others bulk.
///
/// Made on any thread, then used and ended by the one that polls or flushes first. All memory is allocated at `init`.
/// After `close`, or once `closed` was reported for a lane, the lane's memory is free; `sent` is not called for frames
/// that were lost with it.
@safe public struct StreamTransport: ~Copyable, PageTransport {
    private let core: UnsafeMutablePointer<StreamCore>
    public let laneCount: Int

    /// The most descriptors watched at a time.
    public static let mostWatches = 32

    /// - Parameter lanes: 1...16 connections, the urgent one first; owned by the transport from now on.
    /// - Throws: `.ring` when io_uring cannot be used.
    public init(lanes: consuming StreamLanes, configuration: StreamConfiguration = StreamConfiguration()) throws(StreamError) {
        laneCount = lanes.count
        let value = try StreamCore(lanes: lanes, configuration: configuration)
        unsafe core = .allocate(capacity: 1)
        // SAFETY: here and below: the core is initialized once, owned by this value alone, and changed by its mutating
        // methods only.
        unsafe core.initialize(to: value)
    }

    deinit {
        unsafe core.pointee.endNow()
        unsafe core.deinitialize(count: 1)
        unsafe core.deallocate()
    }

    public mutating func submit(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64, lane: LaneIndex) -> Bool {
        unsafe core.pointee.lanes[Int(lane.rawValue)].queue(header, payload: payload, token: token)
    }

    public mutating func submit(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?, lane: LaneIndex) -> Bool {
        unsafe core.pointee.lanes[Int(lane.rawValue)].queue(header, copying: payload)
    }

    public func freeSlots(_ lane: LaneIndex) -> Int {
        unsafe core.pointee.lanes[Int(lane.rawValue)].freeSlots
    }

    public func pendingBytes(_ lane: LaneIndex) -> Int {
        unsafe core.pointee.lanes[Int(lane.rawValue)].sender.pendingBytes
    }

    public mutating func limitBursts(toBytes bytes: Int?) {
        unsafe core.pointee.limitBursts(toBytes: bytes)
    }

    /// Sends of a lane that went without the kernel's copy, and those of them it reported as copied after all.
    public func zeroCopySends(_ lane: LaneIndex) -> (total: Int, copied: Int) {
        let index = Int(lane.rawValue)
        return unsafe (core.pointee.lanes[index].sender.zeroCopySends, core.pointee.lanes[index].sender.zeroCopyCopied)
    }

    public mutating func flush() {
        unsafe core.pointee.flush()
    }

    public mutating func poll<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, wait: WaitPolicy) {
        unsafe core.pointee.poll(&handler, wait: wait)
    }

    public var didSpinInVain: Bool { unsafe core.pointee.didSpinInVain }

    /// Watches a descriptor for readability; at most `mostWatches` at a time.
    ///
    /// `readable` comes once when bytes are there already and then each time more arrive: read until it would block.
    public mutating func watch(descriptor: Int32, token: UInt64) {
        unsafe core.pointee.watches.watch(descriptor: descriptor, token: token)
    }

    public mutating func watchEagerly(descriptor: Int32, token: UInt64) {
        unsafe core.pointee.watches.watch(descriptor: descriptor, token: token, isEager: true, isArmed: true)
    }

    public mutating func unwatch(token: UInt64) {
        unsafe core.pointee.watches.unwatch(token: token, &core.pointee.ring)
    }

    public mutating func close() {
        unsafe core.pointee.close()
    }

    public mutating func abandon() {
        unsafe core.pointee.endNow()
    }
}
