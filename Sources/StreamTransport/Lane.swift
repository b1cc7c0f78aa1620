import Glibc
import PageTransport
import PageWire
import Uring

/// One connection of a transport: its two halves, and its way from open to closed.
struct Lane: ~Copyable {
    private enum State {
        case open
        /// The send half is broken; what the peer sent before is still read.
        case draining(errno: Int32)
        /// Nothing new starts; operations in flight are awaited.
        case ending(LaneClosure)
        case closed
    }

    let index: LaneIndex
    private var descriptor: Descriptor
    private var state = State.open
    private var receiver: FrameReceiver
    private(set) var sender: FrameSender

    init(index: LaneIndex, descriptor: consuming Descriptor, configuration: StreamConfiguration, zeroCopy: Bool) {
        let isUrgent = index == .urgent
        self.index = index
        receiver = FrameReceiver(
            lane: index,
            readAheadBytes: isUrgent ? configuration.urgentReadAheadBytes : configuration.bulkReadAheadBytes,
            mostReceiveBytes: configuration.mostReceiveBytes)
        sender = FrameSender(
            capacity: configuration.queueFrames, copyBytes: configuration.copyBytes,
            mostGatherBytes: configuration.mostGatherBytes,
            zeroCopyThresholdBytes: zeroCopy && !isUrgent ? configuration.zeroCopyThresholdBytes : .max)
        self.descriptor = descriptor
    }

    var isOpen: Bool { if case .open = state { true } else { false } }
    var isClosed: Bool { if case .closed = state { true } else { false } }
    var isDrained: Bool { !isOpen || sender.isDrained && !sender.isInFlight }

    /// Bounds what one receive or send takes; never below a page.
    mutating func limitBursts(receiveBytes: Int, gatherBytes: Int) {
        receiver.mostReceiveBytes = receiveBytes
        sender.mostGatherBytes = gatherBytes
    }

    var freeSlots: Int { isOpen ? sender.freeSlots : 0 }

    // SAFETY: here and below: payloads pass through to the sender, which relies on the owner's promise to keep them
    // until `sent` or `closed`.
    mutating func queue(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64) -> Bool {
        isOpen && (unsafe sender.queue(header, payload: payload, token: token))
    }

    mutating func queue(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?) -> Bool {
        isOpen && (unsafe sender.queue(header, copying: payload))
    }

    /// Prepares a send of what is queued, unless one is in flight.
    mutating func prepareSend(_ ring: inout Ring) throws(UringError) {
        if isOpen, sender.canStart { try sender.start(descriptor.raw, lane: index, ring: &ring) }
    }

    /// Receives what is there past the ring, unless a receive is in flight.
    ///
    /// - Returns: as a completion; nil when there is nothing.
    mutating func receiveNow() -> Completion? {
        switch state {
        case .open, .draining: break
        case .ending, .closed: return nil
        }
        guard !receiver.isInFlight else { return nil }
        let result = receiver.receiveNow(descriptor.raw)
        return result == -EAGAIN
            ? nil : Completion(token: OperationToken(.receive, index: Int(index.rawValue)).rawValue, result: result, flags: 0)
    }

    /// Prepares a receive, unless one is in flight.
    mutating func prepareReceive(_ ring: inout Ring) throws(UringError) {
        switch state {
        case .open, .draining: break
        case .ending, .closed: return
        }
        if !receiver.isInFlight {
            let token = OperationToken(.receive, index: Int(index.rawValue)).rawValue
            try receiver.arm(descriptor.raw, token: token, ring: &ring)
        }
    }

    mutating func received<Handler: TransportHandler & ~Copyable>(_ completion: Completion, handler: inout Handler) {
        guard completion.result > 0 else { return receiveEnded(completion.result) }
        switch state {
        case .open, .draining:
            do { try receiver.completed(count: Int(completion.result), handler: &handler) } catch { end(.refused(error)) }
        case .ending, .closed:
            receiver.finished()
        }
    }

    private mutating func receiveEnded(_ result: Int32) {
        receiver.finished()
        if result == -EINTR || result == -EAGAIN { return }
        switch state {
        case .open:
            end(result == 0 ? (receiver.isMidFrame ? .truncated : .endOfStream) : .failed(errno: -result))
        case .draining(let number):
            // EPIPE says only that the peer had closed: what it sent tells whether it did so orderly.
            if number == EPIPE, result == 0 {
                end(receiver.isMidFrame ? .truncated : .endOfStream)
            } else {
                end(.failed(errno: number))
            }
        case .ending, .closed: break
        }
    }

    mutating func sent<Handler: TransportHandler & ~Copyable>(_ completion: Completion, number: UInt64, handler: inout Handler) {
        if completion.isNotification {
            sender.notified(completion, number: number)
        } else {
            let failure = sender.completed(completion, number: number)
            if failure != 0, isOpen {
                state = .draining(errno: failure)
                // What was received before stays readable; then the receive ends, so the lane cannot linger.
                shutdown(descriptor.raw, Int32(SHUT_RDWR))
            }
        }
        sender.release(&handler, lane: index)
    }

    /// Starts the lane's end; the first reason stands.
    mutating func end(_ reason: LaneClosure) {
        switch state {
        case .ending, .closed: return
        case .open, .draining:
            state = .ending(reason)
            // Makes the operations in flight complete.
            shutdown(descriptor.raw, Int32(SHUT_RDWR))
        }
    }

    /// Says to the peer that nothing more will come.
    mutating func endSending() {
        if isOpen { shutdown(descriptor.raw, Int32(SHUT_WR)) }
    }

    /// Takes an ending lane further once the kernel has let go of its memory.
    ///
    /// - Parameter isForced: closes without waiting for the kernel; buffers it may still use are then never freed.
    /// - Returns: the reason, once, when the lane has just become closed.
    mutating func settle(isForced: Bool = false) -> LaneClosure? {
        guard case .ending(let reason) = state else { return nil }
        if !isForced, receiver.isInFlight || sender.isInFlight { return nil }
        if descriptor.raw >= 0 {
            // Unacknowledged zero-copy bytes would keep their memory for minutes: drop them with the connection.
            if sender.holdsMemory { SocketOption.dropOnClose(descriptor.raw) }
            descriptor.closeNow()
        }
        if !isForced, sender.holdsMemory { return nil }
        state = .closed
        return reason
    }
}
