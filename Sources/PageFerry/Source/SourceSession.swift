import PageCore
import PageEngine
import PageTransport
import PageWire
import StreamTransport
import Synchronization
import Uring
import VerbsTransport

/// One destination being served: a thread of its own answers requests and pushes the rest.
public final class SourceSession: Sendable {
    public struct Configuration: Sendable {
        public var engine = SourceEngine.Configuration()
        /// How to wait for the next request.
        public var polling = Polling.adaptive()
        /// How long to wait for a destination that has lost its link; 0 ends the session with the link. A machine's last
        /// pages are nowhere else, so nothing shorter than for ever suits one.
        public var pauseNanoseconds: UInt64 = .max

        public init() {}
    }

    private let notify: @Sendable (SourceNotice) -> Void
    public let statistics = SharedStatistics()
    private let port: SourcePort
    private let relay: MachineStateRelay?
    private let thread = Mutex<DedicatedThread?>(nil)

    /// Starts serving; nothing is answered before `guestStopped`.
    ///
    /// - Parameters:
    ///   - opened: its sockets belong to the session from here on.
    ///   - memory: stays mapped until the session has ended.
    ///   - machineState: a socket to the VMM that brings its machine state and takes the return path; closed at the end.
    ///   - configuration: how much is sent at once, and what a lost link means.
    ///   - notify: called on the session's thread with what it has to say, in order; `.ended` is the last.
    public convenience init(
        _ opened: OpenedSource, memory: SourceImage, machineState: Int32?, configuration: Configuration,
        notify: @escaping @Sendable (SourceNotice) -> Void
    ) {
        self.init(opened, machineState: machineState, notify: notify) { (session) throws(SessionError) in
            try session.serve(opened, SourceMemory(memory), image: memory, configuration)
        }
    }

    /// Starts serving pages that the session asks `source` for; nothing is answered before `guestStopped`. Over streams alone: RDMA
    /// needs memory that it can register.
    public convenience init<Source: PageSource>(
        _ opened: OpenedSource, source: Source, configuration: Configuration, notify: @escaping @Sendable (SourceNotice) -> Void
    ) {
        self.init(opened, machineState: nil, notify: notify) { (session) throws(SessionError) in
            try session.serve(opened, StagedMemory(source, mostRunBytes: configuration.engine.extentBytes), image: nil, configuration)
        }
    }

    private init(
        _ opened: OpenedSource, machineState: Int32?, notify: @escaping @Sendable (SourceNotice) -> Void,
        serve: @escaping @Sendable (SourceSession) throws(SessionError) -> SessionError?
    ) {
        self.notify = notify
        port = opened.port
        let orders = opened.port.orders
        relay = machineState.map { socket in
            MachineStateRelay(adopting: socket) { piece in
                switch piece {
                case .bytes(let bytes): orders.post(.machineState(bytes))
                case .end: orders.post(.machineStateEnd)
                }
            }
        }
        thread.withLock { thread in
            thread = DedicatedThread(name: "source-shard") { [self] in
                DedicatedThread.preferCurrent()
                let reason = Self.outcome { () throws(SessionError) in try serve(self) }
                relay?.stop()
                port.end()
                notify(.ended(reason))
            }
        }
    }

    /// The guest has stopped, or the memory was final from the start: requests are answered, the push begins.
    public func guestStopped() { port.orders.post(.guestStopped) }

    /// The switch: the source will never resume, unless the session ends without having taken this: see `isCommitted`.
    public func commit() {
        port.allowResumption()
        port.orders.post(.commit)
    }

    /// Whether the session has taken the commit, and may have told the destination. Final once `.ended` has been notified: a
    /// session that was over when `commit` was called has told nobody.
    public var isCommitted: Bool { port.isCommitted.load(ordering: .acquiring) }

    /// Ends the session and tells the destination why.
    public func end(_ reason: SessionError) { port.orders.post(.end(reason)) }

    /// What is served can no longer be had: ends the session, unless every page has left already.
    public func memoryLost(_ reason: SessionError) { port.orders.post(.memoryLost(reason)) }

    /// Waits until the session's thread has ended. Call once, after `.ended`.
    public func join() { thread.withLock { $0.take() }?.join() }

    private static func outcome(_ body: () throws(SessionError) -> SessionError?) -> SessionError? {
        do throws(SessionError) { return try body() } catch { return error }
    }

    /// - Parameter image: what RDMA may register; nil for memory that has no mapping.
    private func serve<Memory: SessionMemory & ~Copyable>(
        _ opened: OpenedSource, _ memory: consuming Memory, image: SourceImage?, _ configuration: Configuration
    ) throws(SessionError) -> SessionError? {
        var lanes = opened.lanes
        var state = SourceState(
            core: SourceCore(
                engine: SourceEngine(layout: opened.layout, configuration: configuration.engine), laneCount: lanes.count,
                port: port, pauseNanoseconds: configuration.pauseNanoseconds, notify: notify, relay: relay,
                isExposed: lanes.verbs != nil),
            memory: memory)
        if let resident = opened.resident {
            state.core.takeOver(resident: resident.pages, isMachine: opened.features.contains(.machineState))
        }
        while true {
            state = try serve(lanes, state, image, configuration)
            lanes = []
            if state.core.ending == nil { state.core.waitForLink(statistics) }
            if let ending = state.core.ending {
                statistics.publish(state.core.snapshot())
                return ending
            }
            if let link = state.core.takeRestored() { lanes = link.lanes }
        }
    }

    /// Serves one link for as long as it lasts.
    private func serve<Memory: SessionMemory & ~Copyable>(
        _ lanes: [ConnectedLane], _ state: consuming SourceState<Memory>, _ image: SourceImage?, _ configuration: Configuration
    ) throws(SessionError) -> SourceState<Memory> {
        if let connections = lanes.verbs {
            guard let image else {
                throw .memory("memory that is read page by page is served over TCP and unix sockets; start the source with --transport tcp")
            }
            let exposure = try image.exposure(for: connections[0].domain)
            do throws(UringError) {
                return run(try VerbsTransport(lanes: connections), state, exposure, configuration)
            } catch {
                throw .cannotConnect(error.description)
            }
        }
        var transportConfiguration = StreamConfiguration()
        // Requests are headers without payload: many come with one receive.
        transportConfiguration.urgentReadAheadBytes = 8 << 10
        do throws(StreamError) {
            let transport = try StreamTransport(lanes: StreamLanes(lanes.sockets ?? []), configuration: transportConfiguration)
            return run(transport, state, nil, configuration)
        } catch {
            throw .cannotConnect(error.description)
        }
    }

    private func run<Transport: PageTransport & ~Copyable, Memory: SessionMemory & ~Copyable>(
        _ transport: consuming Transport, _ state: consuming SourceState<Memory>, _ exposure: SourceExposure?,
        _ configuration: Configuration
    ) -> SourceState<Memory> {
        var shard = SourceShard(
            state: state, transport: transport, exposure: exposure, statistics: statistics,
            polling: configuration.polling)
        shard.run()
        return shard.release()
    }
}
