import Glibc
import PageCore
import PageTransport
import PageWire
import Verbs

/// The errno for a device that is gone.
let deviceGone = ENODEV

// What has completed, and what that lets go on.
extension VerbsConnection {
    /// Takes what has completed, and hands on the frames, fetches and writes it brings.
    ///
    /// - Returns: whether there was anything.
    func progress<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) -> Bool {
        switch state {
        case .requested, .closed: return false
        case .open, .ending: break
        }
        let didComplete = takeCompletions(&handler)
        let didConsume = consume(&handler, mostFrames: .max)
        return didComplete || didConsume
    }

    /// Takes one batch of completions.
    ///
    /// - Returns: whether there were any.
    func takeCompletions<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) -> Bool {
        do throws(VerbsError) {
            guard try completions!.poll(into: &batch) > 0 else { return false }
        } catch {
            end(.failed(errno: EIO))
            return false
        }
        for number in 0..<batch.count { completed(batch[number], &handler) }
        return true
    }

    private func completed<Handler: TransportHandler & ~Copyable>(_ completion: WorkCompletion, _ handler: inout Handler) {
        let token = WorkToken(rawValue: completion.token)
        let isGood = completion.status == .success
        switch token.kind {
        case .message:
            sendHead += 1
        case .receive:
            postedReceives -= 1
            if isGood { received(completion, slot: Int(token.number)) }
        case .fetch:
            oneSided -= 1
            if isGood { handler.fetched(token.number, lane: index) }
        case .write:
            oneSided -= 1
            if isGood { handler.sent(token.number, lane: index) }
        case nil: break
        }
        if !isGood { failed(completion.status) }
    }

    private func failed(_ status: WorkStatus) {
        switch status {
        case .flushed:
            // Only follows from the first failure, or from the end of the connection.
            return
        case .retryExceeded:
            // A peer that went in an orderly way acknowledges nothing any more, and may not have been heard yet.
            takeConnectionEvents()
            end(hasHungUp && !assembler.isMidFrame ? .endOfStream : .failedWork(code: status.rawValue))
        default:
            end(.failedWork(code: status.rawValue))
        }
    }

    private func received(_ completion: WorkCompletion, slot: Int) {
        let message = ReceivedMessage(
            slot: slot, lengthBytes: completion.lengthBytes, isWrite: completion.isRemoteWrite,
            immediate: completion.immediate ?? 0)
        // There are as many places as buffers.
        _ = inbox.append(message)
    }

    /// Hands on what was received, at most `mostFrames` frames of it.
    ///
    /// - Returns: whether anything was.
    func consume<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, mostFrames: Int) -> Bool {
        var frames = 0
        var didConsume = false
        while let message = inbox.first, frames < mostFrames {
            didConsume = true
            if message.isWrite {
                handler.written(message.immediate, byteCount: message.lengthBytes, lane: index)
            } else {
                if inboxOffset == 0 { credit(message.immediate) }
                frames += assemble(message, mostFrames: mostFrames - frames, &handler)
                if case .open = state, inboxOffset < message.lengthBytes { continue }
            }
            inbox.popFirst()
            inboxOffset = 0
            guard case .open = state else { continue }
            do throws(VerbsError) {
                try postReceive(message.slot)
                owedSlots += 1
            } catch { end(.failed(errno: EIO)) }
        }
        return didConsume
    }

    private func assemble<Handler: TransportHandler & ~Copyable>(
        _ message: ReceivedMessage, mostFrames: Int, _ handler: inout Handler
    ) -> Int {
        var frames = 0
        // SAFETY: the buffer is not posted before its message is consumed, and the device reported its length.
        let bytes = unsafe UnsafeRawBufferPointer(start: buffers!.received(message.slot), count: message.lengthBytes)
        do throws(FrameError) {
            while inboxOffset < bytes.count, frames < mostFrames {
                if unsafe try assembler.consume(bytes, from: &inboxOffset, &handler) { frames += 1 }
            }
        } catch {
            end(.refused(error))
        }
        return frames
    }

    /// The peer has posted buffers again.
    private func credit(_ slots: UInt32) {
        guard slots <= UInt32(VerbsConfiguration.receiveSlots), peerSlots + Int(slots) <= VerbsConfiguration.receiveSlots else {
            return end(.refused(.malformedPayload(kind: .credit)))
        }
        peerSlots += Int(slots)
    }

    // MARK: Sending

    /// Gives queued frames to the device as far as its buffers and the peer's go, and what one-sided work was listed.
    func pump() {
        guard case .open = state else { return }
        do throws(VerbsError) {
            while !queue.isDrained, peerSlots > 1, sendTail - sendHead < VerbsConfiguration.sendSlots { try listMessage() }
            // The last of the peer's buffers is kept for this, or both ends could wait for each other.
            if owedSlots >= VerbsConfiguration.receiveSlots / 2, peerSlots > 0, sendTail - sendHead < VerbsConfiguration.sendSlots {
                try list(slot: sendTail, lengthBytes: 0)
            }
            try postListed()
        } catch {
            end(.failed(errno: EIO))
        }
    }

    /// Fills one message with what is queued, and lists it.
    private func listMessage() throws(VerbsError) {
        let slot = sendTail
        // SAFETY: the slot's buffer is free: its last message has completed.
        let buffer = unsafe buffers!.sending(slot % VerbsConfiguration.sendSlots)
        var used = 0
        while !queue.isDrained, used < VerbsConfiguration.messageBytes {
            var count = 0
            if queue.nextOffset < FrameHeader.byteCount {
                // A header is never cut.
                guard VerbsConfiguration.messageBytes - used >= FrameHeader.byteCount else { break }
                count = FrameHeader.byteCount
                // SAFETY: there is room for a header.
                unsafe (buffer + used).copyMemory(from: queue.headerBytes(at: queue.next), byteCount: count)
            } else {
                let payload = unsafe queue.payload(at: queue.next)
                let skip = queue.nextOffset - FrameHeader.byteCount
                count = min(payload.count - skip, VerbsConfiguration.messageBytes - used)
                // SAFETY: inside the payload, which the owner keeps, and inside the buffer.
                unsafe (buffer + used).copyMemory(from: payload.baseAddress! + skip, byteCount: count)
            }
            queue.accept(count)
            used += count
        }
        try list(slot: slot, lengthBytes: used)
    }

    private func list(slot: Int, lengthBytes: Int) throws(VerbsError) {
        if work.isFull { try postListed() }
        // SAFETY: the address is passed to the device, which reads the buffer until its completion.
        let address = unsafe UInt(bitPattern: buffers!.sending(slot % VerbsConfiguration.sendSlots))
        work.append(
            .send(
                from: address, key: buffers!.key, lengthBytes: lengthBytes, immediate: UInt32(owedSlots),
                isInline: lengthBytes <= Self.inlineBytes, token: WorkToken(.message, UInt64(slot)).rawValue))
        sendTail += 1
        peerSlots -= 1
        owedSlots = 0
    }

    private func postListed() throws(VerbsError) {
        guard work.count > 0 else { return }
        defer { work.removeAll() }
        try pair!.post(work)
    }

    var hasUnreleasedFrames: Bool { queue.freeSlots < queue.capacity }

    /// Gives back frames that have gone into messages whole.
    func release<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) {
        queue.release(before: 1, &handler, lane: index)
    }

    // MARK: One-sided

    var freeOneSided: Int {
        guard case .open = state else { return 0 }
        return mostOneSided - oneSided
    }

    /// Lists one-sided work; it goes with the next `pump`.
    func list(_ piece: Work, usesPeerSlot: Bool) -> Bool {
        guard freeOneSided > 0, !usesPeerSlot || peerSlots > 2 else { return false }
        if work.isFull {
            do throws(VerbsError) { try postListed() } catch {
                end(.failed(errno: EIO))
                return false
            }
        }
        work.append(piece)
        oneSided += 1
        if usesPeerSlot { peerSlots -= 1 }
        return true
    }

    // MARK: The end

    /// Whether the device may still touch memory of ours.
    var isBusy: Bool { sendTail > sendHead || oneSided > 0 || postedReceives > 0 }

    /// Takes an ending lane further once the device has let go of its memory.
    ///
    /// - Parameter isForced: closes without waiting for the device; memory it may still touch is then never freed.
    /// - Returns: the reason, once, when the lane has just become closed.
    func settle(isForced: Bool = false) -> LaneClosure? {
        if case .open = state, hasHungUp, inbox.isEmpty { end(assembler.isMidFrame ? .truncated : .endOfStream) }
        guard case .ending(let reason) = state else { return nil }
        if isBusy, !isForced { return nil }
        buffers!.isAbandoned = isBusy
        state = .closed
        return reason
    }
}
