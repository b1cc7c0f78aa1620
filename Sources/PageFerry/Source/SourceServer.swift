import CShims
import Glibc
import PageCore
import PageWire
import StreamTransport
import Synchronization

/// A destination that has opened a session, accepted the regions and joined all its lanes.
public struct OpenedSource: Sendable {
    /// One connected socket a lane, the urgent one first; owned by whoever takes this.
    var lanes: [Int32]
    public let features: ProtocolFeatures
    /// The destination, for messages.
    public let peer: String
    let layout: RegionLayout

    /// Tells the destination why nothing comes of it, in place of a session.
    public func refuse(_ error: SessionError) {
        for lane in lanes.dropFirst() { Glibc.close(lane) }
        guard var channel = try? StreamSetupChannel(adopting: lanes[0]) else { return }
        channel.refuse(error)
    }
}

/// Listens for destinations, and brings each through the handshake on a thread of its own, so that a slow one holds no
/// other up.
public final class SourceServer: Sendable {
    public struct Configuration: Sendable {
        public var features: ProtocolFeatures = []
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
    private struct Pending {
        var offer: SessionOffer
        var lanes: [Int32?]
        var peer: String
    }

    private struct State {
        var pending: [UInt64: Pending] = [:]
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

    /// Handshakes beyond those that all sessions together need: refusals, strangers, and threads about to end.
    private static let spareHandshakes = 64

    public let layout: RegionLayout
    private let configuration: Configuration
    private let state = Mutex(State())
    let arrivals = Mailbox<Arrival>()
    /// Readable once the server is to stop.
    private let stopEvent: Int32
    private let acceptor = Mutex<DedicatedThread?>(nil)

    public init(listener: consuming sending StreamListener, layout: RegionLayout, configuration: Configuration) {
        self.layout = layout
        self.configuration = configuration
        stopEvent = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
        precondition(stopEvent >= 0, "the process has no descriptor left (eventfd: error \(errno)); raise `ulimit -n`")
        let box = Mutex<StreamListener?>(listener)
        acceptor.withLock { acceptor in
            acceptor = DedicatedThread(name: "accept") { [self] in
                guard let listener = box.withLock({ $0.take() }) else { return }
                acceptConnections(listener)
            }
        }
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
        state.withLock { $0.openCount -= 1 }
    }

    /// Stops listening, and drops destinations that are not fully connected.
    public func stop() {
        eventfd_write(stopEvent, 1)
        acceptor.withLock { $0.take() }?.join()
        let abandoned = state.withLock { state in
            defer { state.pending.removeAll() }
            return state.pending.values.flatMap { $0.lanes.compactMap { $0 } }
        }
        for lane in abandoned { Glibc.close(lane) }
        arrivals.post(.stopped)
    }

    // MARK: Threads

    private func acceptConnections(_ listener: consuming StreamListener) {
        var listener = listener
        while true {
            do throws(StreamError) {
                guard let connection = try listener.accept(timeoutNanoseconds: .max, wake: stopEvent) else { return }
                admit(connection)
            } catch {
                arrivals.post(.failed(.cannotConnect(error.description)))
                return
            }
        }
    }

    /// Handshakes run on threads of their own; no more of them than sessions and their lanes can need.
    private func admit(_ connection: consuming StreamConnection) {
        // One more than sessions can need would do, were a handshake over the moment its peer learns of it.
        let most = configuration.mostSessions * configuration.mostLanes + Self.spareHandshakes
        let isAdmitted = state.withLock { state in
            guard state.handshakes < most else { return false }
            state.handshakes += 1
            return true
        }
        guard isAdmitted else { return }
        let socket = connection.release()
        _ = DedicatedThread(name: "handshake") { [self] in
            greet(socket)
            state.withLock { $0.handshakes -= 1 }
        }
    }

    private func greet(_ socket: Int32) {
        var peer = "a destination"
        do throws(SessionError) {
            var channel = try StreamSetupChannel(adopting: socket)
            peer = channel.peerDescription
            let hello = try SourceHandshake.greet(&channel, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
            if hello.lane == 0 {
                try open(channel, hello)
            } else {
                try join(channel, hello)
            }
        } catch {
            arrivals.post(.refused(peer: peer, error))
        }
    }

    private func open(_ channel: consuming StreamSetupChannel, _ hello: Hello) throws(SessionError) {
        var channel = channel
        let isFree = state.withLock { state in
            guard state.openCount < configuration.mostSessions else { return false }
            state.openCount += 1
            return true
        }
        guard isFree else {
            let busy = SessionError.peerFailed(Failure(.busy, "the source already serves \(configuration.mostSessions) destination(s); try again later"))
            channel.refuse(busy)
            throw busy
        }
        let offer = SessionOffer(
            session: SourceHandshake.newSession(), laneCount: min(Int(hello.laneCount), configuration.mostLanes),
            features: configuration.features, layout: layout)
        do throws(SessionError) {
            guard configuration.features.isSubset(of: hello.features) else {
                throw .regionMismatch(
                    "the source migrates a virtual machine, the destination only pulls memory; start the destination with `-- qemu-system-… `")
            }
            // Registered first: the destination may join its lanes the moment it has accepted.
            let peer = channel.peerDescription
            state.withLock { state in
                state.pending[offer.session.identifier] = Pending(
                    offer: offer, lanes: Array(repeating: nil, count: offer.laneCount), peer: peer)
            }
            try SourceHandshake.offer(&channel, offer, timeoutNanoseconds: configuration.acceptTimeoutNanoseconds)
        } catch {
            channel.refuse(error)
            let joined = state.withLock { state in
                state.openCount -= 1
                return state.pending.removeValue(forKey: offer.session.identifier)?.lanes ?? []
            }
            for case let lane? in joined { Glibc.close(lane) }
            throw error
        }
        complete(offer, lane: 0, channel.release())
    }

    private func join(_ channel: consuming StreamSetupChannel, _ hello: Hello) throws(SessionError) {
        var channel = channel
        let pending = state.withLock { $0.pending[hello.session.identifier] }
        guard let pending else {
            channel.refuse(.unknownSession)
            throw .unknownSession
        }
        let free = Set(pending.lanes.indices.filter { $0 > 0 && pending.lanes[$0] == nil })
        try SourceHandshake.admit(
            &channel, hello, to: pending.offer, freeLanes: free, timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
        complete(pending.offer, lane: Int(hello.lane), channel.release())
    }

    /// A lane is connected; with the last one the session is open.
    private func complete(_ offer: SessionOffer, lane: Int, _ descriptor: Int32) {
        let (opened, isTaken) = state.withLock { state -> (OpenedSource?, Bool) in
            guard var pending = state.pending[offer.session.identifier], pending.lanes[lane] == nil else { return (nil, false) }
            pending.lanes[lane] = descriptor
            let lanes = pending.lanes.compactMap { $0 }
            guard lanes.count == offer.laneCount else {
                state.pending[offer.session.identifier] = pending
                return (nil, true)
            }
            state.pending[offer.session.identifier] = nil
            return (OpenedSource(lanes: lanes, features: offer.features, peer: pending.peer, layout: offer.layout), true)
        }
        if !isTaken { Glibc.close(descriptor) }
        if let opened { arrivals.post(.opened(opened)) }
    }
}
