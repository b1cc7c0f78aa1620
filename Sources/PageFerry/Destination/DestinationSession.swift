import PageCore
import PageEngine
import PageTransport
import PageWire
import StreamTransport
import Synchronization
import Uring
import VerbsTransport

/// One source being pulled from: a thread of its own serves the faults of the regions handed over.
public final class DestinationSession: Sendable {
    public struct Configuration: Sendable {
        public var window = WindowPolicy(windowBytes: 64 << 10)
        /// Bytes of pushed pages that may be on the way at once; 0 for no push at all, nil for what the link carries without a
        /// queue in front of demands (`PushPacer`).
        public var creditBytes: Int?
        /// What `nil` means over RDMA, where reads have a queue pair of their own for demands.
        static let fetchCreditBytes = 512 << 10
        /// How to wait for the next event.
        public var polling = Polling.adaptive()
        /// The most bytes taken from a connection at once: a fault waits for at most one such piece.
        public var receiveBytes = 128 << 10
        /// Whether nobody has allocated the memory ahead (`DestinationRegions.prefault`): the kernel then allocates pushed pages of 4 KiB in
        /// the copy that shows them, for half of what both take one after the other. Not over RDMA, nor with a record.
        public var copiesPush = false
        /// Over RDMA: who moves the pages nobody asked for.
        public var push = PushMethod.read
        /// Whether to record which pages the guest needs, for `trace`.
        public var recordsTrace = false
        /// Pages an earlier run needed, pulled before anybody asks for them; of memory of this layout.
        public var replay: PageTrace?
        /// Where to keep on record which pages are settled, for a daemon that takes over when this one dies; nil for nowhere.
        public var record: ResidentRecord?
        /// What a daemon before this one has left; nil for a session that begins.
        public var takeover: Takeover?
        /// How long to look for a source whose link was lost; 0 ends the session with the link. A guest that runs here is frozen
        /// where it touches missing pages, and nothing but its source can help it, so nothing shorter than for ever suits one.
        public var pauseNanoseconds: UInt64 = .max
        /// How long a source is looked for only to tell it that every page is in, when the guest lacks nothing any more; at most
        /// `pauseNanoseconds`.
        public var farewellNanoseconds: UInt64 = 10_000_000_000
        /// How often `statistics` is brought up to date.
        public var statisticsIntervalNanoseconds: UInt64 = 50_000_000

        public init() {}
    }

    /// The trace file's bytes, when one was recorded and the session is over.
    public var trace: [UInt8]? { recorded.withLock { $0 } }
    private let recorded = Mutex<[UInt8]?>(nil)
    private let notify: @Sendable (DestinationNotice) -> Void
    public let statistics = SharedStatistics()
    private let orders = Mailbox<DestinationOrder>()
    private let relay: MachineStateRelay?
    private let thread = Mutex<DedicatedThread?>(nil)

    /// Starts serving faults at once; they wait until the source's guest has stopped.
    ///
    /// - Parameters:
    ///   - opened: its sockets belong to the session from here on.
    ///   - regions: the memory handed over, in the order of the layout.
    ///   - machineState: a socket to the VMM that takes its machine state and brings the return path; closed at the end.
    ///   - configuration: how much is fetched, and what a lost link means.
    ///   - notify: called on the session's thread with what it has to say, in order; `.ended` is the last.
    public init(
        _ opened: OpenedDestination, regions: DestinationRegions, machineState: Int32?, configuration: Configuration,
        notify: @escaping @Sendable (DestinationNotice) -> Void
    ) {
        self.notify = notify
        let orders = orders
        relay = machineState.map { socket in
            MachineStateRelay(adopting: socket) { piece in
                switch piece {
                case .bytes(let bytes): orders.post(.machineState(bytes))
                case .end: orders.post(.machineStateEnd)
                }
            }
        }
        thread.withLock { thread in
            thread = DedicatedThread(name: "fault-shard") { [self] in
                DedicatedThread.preferCurrent()
                let reason = serve(opened, regions, configuration)
                relay?.stop()
                notify(.ended(reason))
            }
        }
    }

    /// The VMM has loaded the machine state: asks the source for the commit.
    public func loaded() { orders.post(.loaded) }

    /// The guest runs here.
    public func resumed() { orders.post(.resumed) }

    /// Takes a region of the layout out, whose memory nobody uses any more: its pages are given up. `regionRemoved` follows as soon as
    /// nothing of the session holds that memory; with the session's end nothing does either.
    public func remove(_ region: RegionIndex) { orders.post(.remove(region)) }

    /// The source is to be found there from now on: a session whose link is lost looks there at once.
    public func recover(at address: StreamAddress) { orders.post(.recover(address)) }

    /// The source is reached over these from now on, which somebody has connected: a link that is lost goes on over them, one that
    /// works is left for them. They are used once; when they do not lead to the source, it is looked for at the address that is known.
    public func recover(adopting sockets: AdoptedSockets) { orders.post(.adopt(sockets)) }

    /// Ends the session and tells the source why.
    public func end(_ reason: SessionError) { orders.post(.end(reason)) }

    /// Waits until the session's thread has ended. Call once, after `.ended`.
    public func join() { thread.withLock { $0.take() }?.join() }

    private func serve(
        _ opened: OpenedDestination, _ mapped: DestinationRegions, _ configuration: Configuration
    ) -> SessionError? {
        do throws(SessionError) {
            var core = try makeCore(opened, mapped, configuration)
            var link = DestinationLink(lanes: opened.lanes)
            if let takeover = configuration.takeover { core.takeOver(takeover) }
            while true {
                if !link.lanes.isEmpty { core = try serve(link, core, configuration) }
                link.lanes = []
                if core.ending == nil { core.waitForLink(statistics) }
                if let ending = core.ending {
                    statistics.publish(core.snapshot())
                    let trace = core.trace.take()?.finish()
                    recorded.withLock { $0 = trace }
                    return ending
                }
                if let found = core.takeRestored() { link = found }
            }
        } catch {
            return error
        }
    }

    private func makeCore(
        _ opened: OpenedDestination, _ mapped: DestinationRegions, _ configuration: Configuration
    ) throws(SessionError) -> DestinationCore {
        // None before the source of a session taken over is found.
        let laneCount = max(1, opened.lanes.count)
        var engineConfiguration = DestinationEngine.Configuration(
            receivesInPlace: mapped.receivesInPlace, laneCount: opened.registration?.slotCount ?? laneCount)
        engineConfiguration.window = configuration.window
        if configuration.copiesPush, opened.registration == nil, configuration.record == nil, configuration.takeover == nil {
            engineConfiguration.copiesPush = mapped.copiesUnprepared
        }
        engineConfiguration.creditBytes = configuration.creditBytes ?? Configuration.fetchCreditBytes
        var memory =
            if let registration = opened.registration {
                try DestinationMemory(
                    layout: opened.layout, regions: mapped, laneCount: laneCount,
                    fetcher: PageFetcher(layout: opened.layout, registration: registration, method: configuration.push))
            } else {
                try DestinationMemory(layout: opened.layout, regions: mapped, laneCount: laneCount, fetcher: nil)
            }
        memory.keep(configuration.takeover?.record ?? configuration.record)
        var core = DestinationCore(
            engine: DestinationEngine(layout: opened.layout, configuration: engineConfiguration), memory: memory,
            laneCount: laneCount, finder: opened.finder, configuration: configuration, mailbox: orders, notify: notify, relay: relay)
        if let replay = configuration.replay {
            precondition(replay.fits(opened.layout), "a trace that is replayed is of this memory")
            core.engine.replay(replay.runs)
        }
        if configuration.recordsTrace { core.trace = TraceRecorder(layout: opened.layout) }
        return core
    }

    /// Serves over one link for as long as it lasts.
    private func serve(
        _ link: DestinationLink, _ core: consuming DestinationCore, _ configuration: Configuration
    ) throws(SessionError) -> DestinationCore {
        if let connections = link.lanes.verbs {
            do throws(UringError) {
                return run(try VerbsTransport(lanes: connections), core, configuration)
            } catch {
                throw .cannotConnect(error.description)
            }
        }
        var transportConfiguration = StreamConfiguration()
        // A demanded page comes with its header and the next one in one call: a copy of 4 KiB that are in the cache costs a tenth of a
        // second call. All other page bytes are received where they belong.
        transportConfiguration.urgentReadAheadBytes = PageSize.fourKiB.bytes + 2 * FrameHeader.byteCount
        transportConfiguration.bulkReadAheadBytes = FrameHeader.byteCount
        transportConfiguration.mostReceiveBytes = configuration.receiveBytes
        do throws(StreamError) {
            let transport = try StreamTransport(lanes: StreamLanes(link.lanes.sockets ?? []), configuration: transportConfiguration)
            return run(transport, core, configuration)
        } catch {
            throw .cannotConnect(error.description)
        }
    }

    private func run<Transport: PageTransport & ~Copyable>(
        _ transport: consuming Transport, _ core: consuming DestinationCore, _ configuration: Configuration
    ) -> DestinationCore {
        var shard = DestinationShard(core: core, transport: transport, statistics: statistics, configuration: configuration)
        shard.run()
        return shard.release()
    }
}
