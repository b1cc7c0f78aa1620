import CShims
import Glibc
import PageCore
import PageWire
import StreamTransport
import Synchronization
import Verbs
import VerbsTransport

/// A destination that has opened a session, accepted the regions and joined all its lanes.
public struct OpenedSource: Sendable {
    /// The urgent lane first; owned by whoever takes this.
    var lanes: [ConnectedLane]
    public let features: ProtocolFeatures
    /// The destination, for messages.
    public let peer: String
    let layout: RegionLayout
    let port: SourcePort
    /// What the destination has, when it comes to a daemon that has taken the session over.
    var resident: ResidentMap?

    /// Makes the memory ready for a destination that reads it by RDMA; nothing to do for others. Pins it, which takes time:
    /// call it while the guest still runs.
    public func prepare(_ image: SourceImage) throws(SessionError) {
        if let connection = lanes.verbs?.first { _ = try image.exposure(for: connection.domain) }
    }

    /// Tells the destination why nothing comes of it, in place of a session.
    public func refuse(_ error: SessionError) {
        for lane in lanes.dropFirst() { lane.close() }
        guard var channel = try? LaneChannel(lanes[0]) else { return }
        channel.refuse(error)
        channel.release().close()
    }
}

/// Listens for destinations, and brings each through the handshake on a thread of its own, so that a slow one holds no
/// other up.
public final class SourceServer: Sendable {
    public struct Configuration: Sendable {
        public var features: ProtocolFeatures = []
        /// Of lanes over streams; RDMA has none.
        public var security = LaneSecurity.plain
        /// Sessions whose daemon has died, to be taken over: their destinations come back, and `nextSession` brings them. Known
        /// before the first connection is taken, which may be one of theirs.
        public var expected: [SessionTicket] = []
        /// Called before a destination is offered a session, on the thread of its handshake: from then on it may come back for it,
        /// whatever happens to this daemon, so what a daemon that takes over must know is put down here. What it throws is told to
        /// the destination, in place of a session.
        public var willOffer: @Sendable (SessionTicket, _ peer: String) throws(SessionError) -> Void = { _, _ in }
        /// Called when nothing came of an offered session: its destination has been told so, or has gone before it was open.
        public var didWithdraw: @Sendable (SessionTicket) -> Void = { _ in }
        /// The memory whose holes a destination is told, which then makes nothing ready there; nil for none. Called on the thread of the
        /// handshake, to find them (`SourceImage.findHoles`) where that has to be done anew; they may be filled afterwards.
        public var toldImage: @Sendable () -> SourceImage? = { nil }
        /// The most lanes granted to one session, the urgent one included.
        public var mostLanes = 5
        /// Sessions served at once; further destinations are told that the source is busy.
        public var mostSessions = 64
        /// How long a destination may take for each step of the handshake.
        public var stepTimeoutNanoseconds: UInt64 = 10_000_000_000
        /// How long it may take to accept the regions: it may start its machine first.
        public var acceptTimeoutNanoseconds: UInt64 = 120_000_000_000

        public init() {}
    }

    /// A session whose lanes are still being joined.
    struct Pending {
        var offer: SessionOffer
        let port: SourcePort
        /// Of a destination that comes back.
        var resident: ResidentMap?
        var lanes: [ConnectedLane?]
        var peer: String
        /// Told of each lane that joins, and whether it was the last; also when nobody need wait for lanes any more.
        let joined = Mailbox<Bool>()
    }

    struct State {
        var pending: [UInt64: Pending] = [:]
        /// Sessions that are open, by identifier.
        var ports: [UInt64: SourcePort] = [:]
        /// Sessions opened and not yet ended.
        var openCount = 0
        var handshakes = 0
    }

    /// What the accepting threads tell whoever waits for sessions.
    enum Arrival: Sendable {
        case opened(OpenedSource)
        case refused(peer: String, SessionError)
        case failed(SessionError)
        case stopped
    }

    public let layout: RegionLayout
    let configuration: Configuration
    let state = Mutex(State())
    let arrivals = Mailbox<Arrival>()
    /// Readable once the server is to stop.
    let stopEvent: Int32
    private let acceptors = Mutex<[DedicatedThread]>([])

    public convenience init(listener: consuming sending SourceListener, layout: RegionLayout, configuration: Configuration) {
        var listener = listener
        self.init(
            listener: listener.stream.take(), verbs: listener.verbs.take(), layout: layout, configuration: configuration)
    }

    /// - Parameters:
    ///   - listener: takes TCP or unix connections; nil when none are wanted.
    ///   - verbs: takes RDMA connections; nil when none are wanted.
    ///   - layout: of the memory that is offered.
    ///   - configuration: how many may come, and what protects them.
    public init(
        listener: consuming sending StreamListener?, verbs: consuming sending VerbsListener? = nil, layout: RegionLayout,
        configuration: Configuration
    ) {
        self.layout = layout
        self.configuration = configuration
        state.withLock { state in
            for ticket in configuration.expected { state.ports[ticket.identifier] = SourcePort(ticket.session, isExpected: true) }
        }
        stopEvent = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
        precondition(stopEvent >= 0, "the process has no descriptor left (eventfd: error \(errno)); raise `ulimit -n`")
        let streams = Mutex<StreamListener?>(listener)
        let verbs = Mutex<VerbsListener?>(verbs)
        let threads = [
            DedicatedThread(name: "accept") { [self] in
                guard let listener = streams.withLock({ $0.take() }) else { return }
                acceptConnections(listener)
            },
            DedicatedThread(name: "accept-rdma") { [self] in
                guard let listener = verbs.withLock({ $0.take() }) else { return }
                acceptRequests(listener)
            },
        ]
        acceptors.withLock { $0 = threads }
    }

    deinit { Glibc.close(stopEvent) }

    /// The next destination that is ready for its pages.
    ///
    /// - Parameters:
    ///   - deadlineNanoseconds: on the monotonic clock; nil waits for ever.
    ///   - refused: told of destinations that were refused meanwhile.
    /// - Returns: nil when the deadline has passed, or the server was stopped.
    public func nextSession(
        deadlineNanoseconds: UInt64? = nil, refused: (String, SessionError) -> Void
    ) throws(SessionError) -> OpenedSource? {
        while let arrival = arrivals.next(deadlineNanoseconds: deadlineNanoseconds) {
            switch arrival {
            case .opened(let opened): return opened
            case .refused(let peer, let error): refused(peer, error)
            case .failed(let error): throw error
            case .stopped: return nil
            }
        }
        return nil
    }

    /// A session taken from `nextSession` is over: another may take its place.
    public func sessionEnded() {
        state.withLock { state in
            state.openCount -= 1
            state.ports = state.ports.filter { !$0.value.isOver }
        }
    }

    /// Listens at one more address: for destinations whose way to the first is lost.
    public func listen(_ listener: consuming sending StreamListener) {
        let further = Mutex<StreamListener?>(listener)
        let thread = DedicatedThread(name: "accept") { [self] in
            guard let listener = further.withLock({ $0.take() }) else { return }
            acceptConnections(listener)
        }
        acceptors.withLock { $0.append(thread) }
    }

    /// Stops listening, and drops destinations that are not fully connected.
    public func stop() {
        eventfd_write(stopEvent, 1)
        let threads = acceptors.withLock { acceptors in
            defer { acceptors = [] }
            return acceptors
        }
        for thread in threads { thread.join() }
        let abandoned = state.withLock { state in
            defer { state.pending.removeAll() }
            return Array(state.pending.values)
        }
        for pending in abandoned { Self.abandon(pending) }
        arrivals.post(.stopped)
    }

    // MARK: Handshakes

    func greet(_ lane: ConnectedLane) {
        var peer = "a destination"
        do throws(SessionError) {
            var channel = try configuration.security.channel(over: lane, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
            peer = channel.peerDescription
            let hello = try SourceHandshake.greet(&channel, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
            if hello.lane == 0, hello.session.identifier == 0 {
                try open(channel, hello)
            } else if hello.lane == 0 {
                try resume(channel, hello)
            } else {
                try join(channel, hello)
            }
        } catch {
            arrivals.post(.refused(peer: peer, error))
        }
    }

    private func open(_ channel: consuming LaneChannel, _ hello: Hello) throws(SessionError) {
        var channel = channel
        let joined: Mailbox<Bool>
        let isFree = state.withLock { state in
            guard state.openCount < configuration.mostSessions else { return false }
            state.openCount += 1
            return true
        }
        guard isFree else {
            let busy = SessionError.peerFailed(
                Failure(.busy, "the source already serves \(configuration.mostSessions) destination(s); try again later"))
            channel.refuse(busy)
            throw busy
        }
        let content = hello.features.contains(.contentMap) ? configuration.toldImage()?.content : nil
        let offer = SessionOffer(
            session: SourceHandshake.newSession(), laneCount: min(Int(hello.laneCount), configuration.mostLanes),
            features: content == nil ? configuration.features : configuration.features.union(.contentMap), layout: layout,
            content: content)
        do throws(SessionError) {
            guard configuration.features.isSubset(of: hello.features) else {
                throw .regionMismatch(
                    "the source migrates a virtual machine, the destination only pulls memory; start the destination with `-- qemu-system-… `"
                )
            }
            // Registered first: the destination may join its lanes the moment it has accepted.
            let pending = Pending(
                offer: offer, port: SourcePort(offer.session), lanes: Array(repeating: nil, count: offer.laneCount),
                peer: channel.peerDescription)
            joined = pending.joined
            state.withLock { $0.pending[offer.session.identifier] = pending }
            try configuration.willOffer(SessionTicket(offer.session), pending.peer)
            try SourceHandshake.offer(&channel, offer, timeoutNanoseconds: configuration.acceptTimeoutNanoseconds)
        } catch {
            channel.refuse(error)
            let lanes = state.withLock { state in
                state.openCount -= 1
                return state.pending.removeValue(forKey: offer.session.identifier)?.lanes ?? []
            }
            for case let lane? in lanes { lane.close() }
            configuration.didWithdraw(SessionTicket(offer.session))
            throw error
        }
        complete(offer, lane: 0, channel.release(), joined)
        try awaitLanes(offer.session, joined, isNew: true)
    }

    /// A destination comes back to its session: takes what it says it has, and its new lanes.
    private func resume(_ channel: consuming LaneChannel, _ hello: Hello) throws(SessionError) {
        var channel = channel
        guard let port = state.withLock({ $0.ports[hello.session.identifier] }), port.session.matches(hello.session), port.isResumable
        else {
            channel.refuse(.unknownSession)
            throw .unknownSession
        }
        let offer = SessionOffer(
            session: port.session, laneCount: min(Int(hello.laneCount), configuration.mostLanes), features: configuration.features,
            layout: layout)
        let pending = Pending(
            offer: offer, port: port, lanes: Array(repeating: nil, count: offer.laneCount), peer: channel.peerDescription)
        // An earlier attempt that came to nothing is forgotten.
        let abandoned = state.withLock { $0.pending.updateValue(pending, forKey: port.session.identifier) }
        if let abandoned { Self.abandon(abandoned) }
        let resident: ResidentMap
        do throws(SessionError) {
            resident = try SourceHandshake.resume(&channel, offer, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        } catch {
            channel.refuse(error)
            throw error
        }
        state.withLock { state in
            if state.pending[port.session.identifier]?.joined === pending.joined {
                state.pending[port.session.identifier]?.resident = resident
            }
        }
        complete(offer, lane: 0, channel.release(), pending.joined)
        try awaitLanes(offer.session, pending.joined, isNew: false)
    }

    /// Waits until a destination has joined all its lanes. One that takes too long is told so and forgotten: it must not keep
    /// a session's place from others.
    private func awaitLanes(_ session: SessionIdentity, _ joined: Mailbox<Bool>, isNew: Bool) throws(SessionError) {
        while true {
            let deadline = MonotonicClock.nowNanoseconds() + configuration.stepTimeoutNanoseconds
            guard let isOver = joined.next(deadlineNanoseconds: deadline) else { break }
            if isOver { return }
        }
        let late = state.withLock { state -> Pending? in
            // It may be complete by now, or begun anew by its destination.
            guard state.pending[session.identifier]?.joined === joined else { return nil }
            if isNew { state.openCount -= 1 }
            return state.pending.removeValue(forKey: session.identifier)
        }
        guard let late else { return }
        let lanes = late.lanes.compactMap { $0 }
        let error = SessionError.timedOut(
            "\(late.peer) joined \(lanes.count) of \(late.offer.laneCount) lanes in time; check that it is running and reachable")
        OpenedSource(lanes: lanes, features: [], peer: late.peer, layout: layout, port: late.port).refuse(error)
        if isNew { configuration.didWithdraw(SessionTicket(session)) }
        throw error
    }

    /// Closes what has joined, and lets whoever waits for the rest go.
    private static func abandon(_ pending: Pending) {
        for case let lane? in pending.lanes { lane.close() }
        pending.joined.post(true)
    }

    private func join(_ channel: consuming LaneChannel, _ hello: Hello) throws(SessionError) {
        var channel = channel
        let pending = state.withLock { $0.pending[hello.session.identifier] }
        guard let pending else {
            channel.refuse(.unknownSession)
            throw .unknownSession
        }
        let free = Set(pending.lanes.indices.filter { $0 > 0 && pending.lanes[$0] == nil })
        try SourceHandshake.admit(
            &channel, hello, to: pending.offer, freeLanes: free, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        complete(pending.offer, lane: Int(hello.lane), channel.release(), pending.joined)
    }

    /// A lane of an attempt is connected; with the last one the session is open. Its destination may have begun another since.
    private func complete(_ offer: SessionOffer, lane: Int, _ connected: ConnectedLane, _ attempt: Mailbox<Bool>) {
        let (opened, isTaken) = state.withLock { state -> ((OpenedSource, ResidentMap?)?, Bool) in
            guard var pending = state.pending[offer.session.identifier], pending.joined === attempt, pending.lanes[lane] == nil else {
                return (nil, false)
            }
            pending.lanes[lane] = connected
            let lanes = pending.lanes.compactMap { $0 }
            // All over one transport: a lane that joins over another is none of this session's.
            guard lanes.sockets != nil || lanes.verbs != nil else { return (nil, false) }
            pending.joined.post(lanes.count == offer.laneCount)
            guard lanes.count == offer.laneCount else {
                state.pending[offer.session.identifier] = pending
                return (nil, true)
            }
            state.pending[offer.session.identifier] = nil
            state.ports[offer.session.identifier] = pending.port
            if !offer.features.contains(.machineState) { pending.port.allowResumption() }
            let opened = OpenedSource(
                lanes: lanes, features: offer.features, peer: pending.peer, layout: offer.layout, port: pending.port)
            return ((opened, pending.resident), true)
        }
        if !isTaken { connected.close() }
        guard let (link, resident) = opened else { return }
        guard let resident, !link.port.takeExpectation() else {
            var link = link
            link.resident = resident
            if resident != nil { state.withLock { $0.openCount += 1 } }
            return arrivals.post(.opened(link))
        }
        link.port.restore(SourceLink(lanes: link.lanes, resident: resident))
    }
}
