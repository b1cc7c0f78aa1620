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
        /// How long to spin for the next request before sleeping, after something happened.
        public var spinNanoseconds: UInt64 = 50_000

        public init() {}
    }

    private let notify: @Sendable (SourceNotice) -> Void
    public let statistics = SharedStatistics()
    private let orders = Mailbox<SourceOrder>()
    private let relay: MachineStateRelay?
    private let thread = Mutex<DedicatedThread?>(nil)

    /// Starts serving; nothing is answered before `guestStopped`.
    ///
    /// - Parameters:
    ///   - opened: its sockets belong to the session from here on.
    ///   - memory: stays mapped until the session has ended.
    ///   - machineState: a socket to the VMM that brings its machine state and takes the return path; closed at the end.
    ///   - notify: called on the session's thread with what it has to say, in order; `.ended` is the last.
    public init(
        _ opened: OpenedSource, memory: SourceImage, machineState: Int32?, configuration: Configuration,
        notify: @escaping @Sendable (SourceNotice) -> Void
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
            thread = DedicatedThread(name: "source-shard") { [self] in
                DedicatedThread.preferCurrent()
                let reason = serve(opened, memory, configuration)
                relay?.stop()
                notify(.ended(reason))
            }
        }
    }

    /// The guest has stopped, or the memory was final from the start: requests are answered, the push begins.
    public func guestStopped() { orders.post(.guestStopped) }

    /// The switch: the source will never resume.
    public func commit() { orders.post(.commit) }

    /// Ends the session and tells the destination why.
    public func end(_ reason: SessionError) { orders.post(.end(reason)) }

    /// Waits until the session's thread has ended. Call once, after `.ended`.
    public func join() { thread.withLock { $0.take() }?.join() }

    private func serve(_ opened: OpenedSource, _ image: SourceImage, _ configuration: Configuration) -> SessionError? {
        if let connections = opened.lanes.verbs {
            do throws(UringError) {
                let transport = try VerbsTransport(lanes: connections)
                do throws(SessionError) {
                    let exposure = try image.exposure(for: connections[0].domain)
                    return try run(transport, opened, image, exposure, configuration)
                } catch {
                    return error
                }
            } catch {
                return .cannotConnect(error.description)
            }
        }
        var transportConfiguration = StreamConfiguration()
        // Requests are headers without payload: many come with one receive.
        transportConfiguration.urgentReadAheadBytes = 8 << 10
        do throws(StreamError) {
            let transport = try StreamTransport(
                lanes: StreamLanes(opened.lanes.sockets ?? []), configuration: transportConfiguration)
            do throws(SessionError) { return try run(transport, opened, image, nil, configuration) } catch { return error }
        } catch {
            return .cannotConnect(error.description)
        }
    }

    private func run<Transport: PageTransport & ~Copyable>(
        _ transport: consuming Transport, _ opened: OpenedSource, _ image: SourceImage, _ exposure: SourceExposure?,
        _ configuration: Configuration
    ) throws(SessionError) -> SessionError? {
        let memory = try SourceMemory(image)
        let core = SourceCore(
            engine: SourceEngine(layout: opened.layout, configuration: configuration.engine), laneCount: opened.lanes.count,
            mailbox: orders, notify: notify, relay: relay, isExposed: exposure != nil)
        var shard = SourceShard(
            core: core, transport: transport, memory: memory, exposure: exposure, statistics: statistics,
            spinNanoseconds: configuration.spinNanoseconds)
        return shard.run()
    }
}
