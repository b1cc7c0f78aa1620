import PageCore
import PageTransport
import PageWire
import Verbs

/// One connected queue pair with its buffers: a lane of a transport, and before that a channel for set-up.
///
/// Used by one thread at a time. Its parts go in the order that verbs demands: queue pair, registered memory, completion
/// queue, identifier, event channel, and the domain with its last user.
public final class VerbsConnection: @unchecked Sendable {
    enum State {
        /// Requested by a peer, and not accepted yet.
        case requested
        case open
        /// Nothing new starts; work on its way is awaited.
        case ending(LaneClosure)
        case closed
    }

    /// The domain this connection's memory is registered in.
    public let domain: ProtectionDomain
    public let peerDescription: String
    /// The device, as `rdma link` shows it.
    public let deviceName: String
    let readDepth: Int

    /// Readable when completions came after `arm`.
    private(set) var completionDescriptor: Int32 = -1
    /// Readable when the connection manager has news.
    let eventDescriptor: Int32

    private var events: EventChannel?
    private var identifier: ConnectionIdentifier?
    var completions: CompletionQueue?
    var pair: QueuePair?
    var buffers: MessageBuffers?

    var state = State.requested
    var index = LaneIndex.urgent
    var queue: FrameQueue
    var assembler = FrameAssembler(lane: .urgent)
    var work = WorkList()
    var batch = WorkCompletionBatch()

    // Messages out: buffers are used and freed in turn; positions count up for ever.
    var sendHead = 0
    var sendTail = 0
    /// Buffers the peer has posted and that were not used yet.
    var peerSlots = VerbsConfiguration.receiveSlots
    /// Buffers posted again here, of which the peer was not told yet.
    var owedSlots = 0
    // Messages in: received and not consumed.
    var inbox = BoundedQueue<ReceivedMessage>(capacity: VerbsConfiguration.receiveSlots)
    /// Consumed bytes of the first of them.
    var inboxOffset = 0
    /// Buffers posted for receiving and not completed.
    var postedReceives = 0
    /// Reads and writes accepted and not completed.
    var oneSided = 0
    var mostOneSided = VerbsConfiguration().mostOneSided
    /// Whether the peer has hung up.
    var hasHungUp = false

    /// One message, or write with an immediate, as it was received.
    struct ReceivedMessage {
        var slot: Int
        var lengthBytes: Int
        var isWrite: Bool
        var immediate: UInt32
    }

    /// The reads asked for on one queue pair; devices commonly allow 16.
    private static let wantedReads = 16

    init(
        identifier: consuming ConnectionIdentifier, events: consuming EventChannel, domain: ProtectionDomain?, peer: String,
        configuration: VerbsConfiguration = VerbsConfiguration()
    ) throws(VerbsError) {
        queue = FrameQueue(capacity: configuration.queueFrames, copyBytes: configuration.copyBytes)
        let domain = if let domain { domain } else { try ProtectionDomain(of: identifier) }
        self.domain = domain
        peerDescription = peer
        deviceName = identifier.deviceName ?? ""
        readDepth = identifier.readDepth(wanted: Self.wantedReads)
        mostOneSided = configuration.mostOneSided
        let sends = VerbsConfiguration.sendSlots + configuration.mostOneSided
        let matches = domain.covers(identifier)
        eventDescriptor = events.descriptor
        // A class's init may only throw once all its parts are there.
        self.events = consume events
        self.identifier = consume identifier
        guard matches else { throw .differentDevices }
        let made = try CompletionQueue(of: self.identifier!, entries: sends + VerbsConfiguration.receiveSlots + 8)
        pair = try QueuePair(
            on: self.identifier!, domain: domain, completingInto: made, sends: sends, receives: VerbsConfiguration.receiveSlots,
            inlineBytes: Self.inlineBytes)
        completionDescriptor = made.descriptor
        completions = consume made
        buffers = try MessageBuffers(domain)
        for slot in 0..<VerbsConfiguration.receiveSlots { try postReceive(slot) }
    }

    /// A lone header goes inline.
    static let inlineBytes = 64

    deinit {
        if case .open = state { identifier?.disconnect() }
        pair = nil
        buffers = nil
        completions = nil
        identifier = nil
        events = nil
    }

    // MARK: Set-up

    /// Connects to a listener.
    ///
    /// - Parameter domain: that of the session's other lanes; nil makes a new one.
    public static func connect(
        to address: VerbsAddress, domain: ProtectionDomain? = nil, timeoutNanoseconds: UInt64,
        configuration: VerbsConfiguration = VerbsConfiguration()
    ) throws(VerbsError) -> VerbsConnection {
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        var events = try EventChannel()
        let identifier = try ConnectionIdentifier.resolve(address, on: &events, until: deadline)
        let connection = try VerbsConnection(
            identifier: identifier, events: events, domain: domain, peer: address.description, configuration: configuration)
        try connection.establish(until: deadline, address)
        return connection
    }

    private func establish(until deadlineNanoseconds: UInt64, _ address: VerbsAddress) throws(VerbsError) {
        try identifier!.connect(to: address, reads: readDepth, on: &events!, until: deadlineNanoseconds)
        state = .open
    }

    /// Accepts a peer's request, which `VerbsListener.accept` has brought.
    public func accept(timeoutNanoseconds: UInt64) throws(VerbsError) {
        guard case .requested = state else { return }
        try identifier!.accept(
            reads: readDepth, on: &events!, until: MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds)
        state = .open
    }

    // MARK: The connection manager

    /// Takes the connection manager's news.
    func takeConnectionEvents() {
        while let event = events!.nextEvent() {
            switch event {
            case .disconnected:
                hasHungUp = true
            case .deviceRemoved:
                end(.failed(errno: deviceGone))
            default: break
            }
        }
    }

    /// Starts the lane's end; the first reason stands.
    func end(_ reason: LaneClosure) {
        switch state {
        case .ending, .closed: return
        case .requested, .open:
            state = .ending(reason)
            // Everything on its way completes, flushed.
            identifier!.disconnect()
        }
    }

    func postReceive(_ slot: Int) throws(VerbsError) {
        // SAFETY: the address is passed to the device, which owns the buffer until its completion.
        let address = unsafe UInt(bitPattern: buffers!.received(slot))
        try pair!.postReceive(
            into: address, lengthBytes: VerbsConfiguration.messageBytes, key: buffers!.key,
            token: WorkToken(.receive, UInt64(slot)).rawValue)
        postedReceives += 1
    }
}
