import Glibc
import PageCore
import PageTransport
import PageWire
import Verbs

// Whole frames during set-up, one after the other, each with a time-out.
extension VerbsConnection {
    /// Why a frame could not be sent or received.
    public enum FrameFailure: Error, Sendable, Hashable {
        case verbs(VerbsError)
        case refused(FrameError)
        case payloadTooLarge(bytes: Int, capacityBytes: Int)
    }

    /// Sends one frame; it is on its way when this returns.
    public func sendFrame(
        _ header: FrameHeader, payload: UnsafeRawBufferPointer, timeoutNanoseconds: UInt64
    ) throws(FrameFailure) {
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        precondition(unsafe queue.queue(header, copying: payload.isEmpty ? nil : payload), "set-up sends one frame at a time")
        var handler = unsafe OneFrame(capacity: nil)
        while true {
            pump()
            release(&handler)
            if queue.isDrained { return }
            try turn(&handler, until: deadline)
        }
    }

    /// Receives one frame, its payload into `buffer`.
    public func receiveFrame(
        into buffer: UnsafeMutableRawBufferPointer, timeoutNanoseconds: UInt64
    ) throws(FrameFailure) -> FrameHeader {
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        var handler = unsafe OneFrame(capacity: buffer)
        while true {
            _ = consume(&handler, mostFrames: 1)
            if let header = handler.header { return header }
            if let bytes = handler.tooLargeBytes { throw .payloadTooLarge(bytes: bytes, capacityBytes: buffer.count) }
            pump()
            try turn(&handler, until: deadline)
        }
    }

    /// Waits until something has completed.
    private func turn(_ handler: inout OneFrame, until deadline: UInt64) throws(FrameFailure) {
        do throws(VerbsError) {
            while true {
                try checkOpen()
                if takeCompletions(&handler) { return try checkOpen() }
                if hasHungUp { throw .disconnected(peer: peerDescription) }
                try completions!.arm()
                if takeCompletions(&handler) { return }
                try wait(until: deadline)
            }
        } catch {
            if case .ending(.refused(let frame)) = state { throw .refused(frame) }
            throw .verbs(error)
        }
    }

    private func checkOpen() throws(VerbsError) {
        switch state {
        case .ending(.failedWork(let code)): throw .work(WorkStatus(code: code))
        case .ending(.failed(ENODEV)): throw .deviceRemoved
        case .ending, .closed, .requested: throw .disconnected(peer: peerDescription)
        case .open: break
        }
    }

    private func wait(until deadline: UInt64) throws(VerbsError) {
        let now = MonotonicClock.nowNanoseconds()
        guard now < deadline else { throw .timedOut(peer: peerDescription) }
        var waits = [
            pollfd(fd: completionDescriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: eventDescriptor, events: Int16(POLLIN), revents: 0),
        ]
        let rest = Int32(min((deadline - now) / 1_000_000 + 1, 1 << 30))
        // SAFETY: the array outlives the call.
        let answer = unsafe waits.withUnsafeMutableBufferPointer { unsafe poll($0.baseAddress, nfds_t($0.count), rest) }
        if answer < 0, errno != EINTR { throw .failed(call: .wait, errno: errno) }
        completions!.takeEvents()
        takeConnectionEvents()
    }
}

/// Takes one frame. A frame whose payload has no room is refused.
@safe private struct OneFrame: TransportHandler {
    private let capacity: UnsafeMutableRawBufferPointer?
    private(set) var header: FrameHeader?
    private(set) var tooLargeBytes: Int?

    init(capacity: UnsafeMutableRawBufferPointer?) { unsafe self.capacity = capacity }

    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget {
        guard let capacity = unsafe capacity, let start = capacity.baseAddress, header.payloadBytes <= capacity.count else {
            tooLargeBytes = header.payloadBytes
            throw .payloadTooLarge(kind: header.kind, bytes: header.payloadBytes)
        }
        return unsafe .memory(start)
    }

    mutating func arrived(_ header: FrameHeader, lane: LaneIndex) { self.header = header }
    mutating func sent(_ token: UInt64, lane: LaneIndex) {}
    mutating func readable(_ token: UInt64) {}
    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) {}
}
