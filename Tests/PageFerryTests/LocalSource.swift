import Glibc
import HostMemory
import PageCore
import PageEngine
import StreamTransport
import Synchronization
import Testing

@testable import PageFerry

/// A source in this process: serves an image to every destination that comes.
final class LocalSource: Sendable {
    let address: StreamAddress
    private let server: SourceServer
    private let acceptor: DedicatedThread
    private let ends: Mailbox<SessionEnd>

    struct SessionEnd: Sendable { let reason: SessionError? }

    /// How a session begins.
    typealias Start = @Sendable (OpenedSource, SourceSession.Configuration, @escaping @Sendable (SourceNotice) -> Void) -> SourceSession

    /// - Parameter startsAtOnce: whether the memory is final from the start; otherwise `guestStopped` makes it so.
    convenience init(
        _ image: SourceImage, name: String, startsAtOnce: Bool = true, mostLanes: Int = 6, link: Link = .unix,
        pauseNanoseconds: UInt64 = 0, configure: (inout SourceServer.Configuration) -> Void = { _ in }
    ) throws {
        try self.init(
            layout: image.layout, name: name, startsAtOnce: startsAtOnce, mostLanes: mostLanes, link: link,
            pauseNanoseconds: pauseNanoseconds, configure: configure
        ) { SourceSession($0, memory: image, machineState: nil, configuration: $1, notify: $2) }
    }

    /// Of pages that each session asks for.
    convenience init<Source: PageSource>(pages source: Source, name: String, pauseNanoseconds: UInt64 = 0) throws {
        try self.init(layout: source.layout, name: name, pauseNanoseconds: pauseNanoseconds) {
            SourceSession($0, source: source, configuration: $1, notify: $2)
        }
    }

    private init(
        layout: RegionLayout, name: String, startsAtOnce: Bool = true, mostLanes: Int = 6, link: Link = .unix,
        pauseNanoseconds: UInt64, configure: (inout SourceServer.Configuration) -> Void = { _ in }, start: @escaping Start
    ) throws {
        let wanted = link.address(name)
        let listener = try SourceListener(
            link == .unix ? try StreamListener(on: wanted) : nil, on: wanted, transport: link.transport)
        address = listener.address
        var configuration = SourceServer.Configuration()
        configuration.mostLanes = mostLanes
        configuration.mostSessions = 8
        configure(&configuration)
        let server = SourceServer(listener: listener, layout: layout, configuration: configuration)
        let ends = Mailbox<SessionEnd>()
        self.server = server
        self.ends = ends
        let box = SessionsBox()
        self.box = box
        acceptor = DedicatedThread(name: "test-source") {
            while let opened = try? server.nextSession(refused: { _, error in ends.post(SessionEnd(reason: error)) }) {
                var configuration = SourceSession.Configuration()
                configuration.pauseNanoseconds = pauseNanoseconds
                let session = start(opened, configuration) { notice in
                    if case .ended(let reason) = notice {
                        server.sessionEnded()
                        ends.post(SessionEnd(reason: reason))
                    }
                }
                box.add(session)
                if startsAtOnce { session.guestStopped() }
            }
        }
    }

    private let box: SessionsBox

    private final class SessionsBox: Sendable {
        private let sessions = Mutex<[SourceSession]>([])
        func add(_ session: SourceSession) { sessions.withLock { $0.append(session) } }
        var all: [SourceSession] { sessions.withLock { $0 } }
    }

    /// The memory is final: to every session there is. Waits for one at least.
    func guestStopped() {
        _ = poll(until: { !box.all.isEmpty })
        for session in box.all { session.guestStopped() }
    }

    func endAll(_ reason: SessionError) {
        _ = poll(until: { !box.all.isEmpty })
        for session in box.all { session.end(reason) }
    }

    var statistics: [SessionStatistics] { box.all.map { $0.statistics.read() } }

    /// How the next session ended; nil when none did within half a minute.
    func nextEnd() -> SessionEnd? { ends.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 30_000_000_000) }

    func stop() {
        server.stop()
        acceptor.join()
        for session in box.all { session.end(.cancelled) }
        for session in box.all { session.join() }
    }
}

/// A destination session over a guest, in this process.
final class LocalDestination: Sendable {
    let session: DestinationSession
    let finder: SourceFinder
    private let notices: Mailbox<DestinationNotice>

    convenience init(
        _ guest: Guest, from address: StreamAddress, bulkLanes: Int = 2, prefault: Bool = false, link: Link = .unix, child: Int32? = nil,
        security: LaneSecurity = .plain,
        configure: (inout DestinationSession.Configuration) -> Void = { _ in }
    ) throws {
        try self.init(
            [try guest.handOver(child: child)], from: address, bulkLanes: bulkLanes, prefault: prefault, link: link, security: security,
            configure: configure)
    }

    init(
        _ handedOver: [DestinationRegion], from address: StreamAddress, bulkLanes: Int = 2, prefault: Bool = false, link: Link = .unix,
        security: LaneSecurity = .plain,
        configure: (inout DestinationSession.Configuration) -> Void = { _ in }
    ) throws {
        let regions = try DestinationRegions(handedOver)
        if prefault { try regions.prefault(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 10_000_000_000) }
        var configuration = DestinationConnector.Configuration()
        configuration.bulkLanes = bulkLanes
        configuration.transport = link.transport
        configuration.push = link.push
        configuration.security = security
        let opened = try DestinationConnector(to: address, configuration: configuration).accept(regions)
        finder = opened.finder
        var sessionConfiguration = DestinationSession.Configuration()
        sessionConfiguration.push = link.push
        sessionConfiguration.pauseNanoseconds = 0
        configure(&sessionConfiguration)
        let notices = Mailbox<DestinationNotice>()
        self.notices = notices
        session = DestinationSession(opened, regions: regions, machineState: nil, configuration: sessionConfiguration) { notices.post($0) }
    }

    /// How often the link was lost.
    var pauses: Int { session.statistics.read().pauseCount }

    /// Waits for the end, a minute at most.
    func end() throws -> SessionError? {
        let deadline = MonotonicClock.nowNanoseconds() + 60_000_000_000
        while let notice = notices.next(deadlineNanoseconds: deadline) {
            if case .ended(let reason) = notice {
                session.join()
                return reason
            }
        }
        session.end(.cancelled)
        session.join()
        throw NoEnd()
    }

    /// Takes a region out, and waits until nothing of the session holds it, a minute at most.
    ///
    /// - Returns: whether that was told; false at the session's end.
    func remove(_ region: RegionIndex) -> Bool {
        session.remove(region)
        let deadline = MonotonicClock.nowNanoseconds() + 60_000_000_000
        while let notice = notices.next(deadlineNanoseconds: deadline) {
            switch notice {
            case .regionRemoved(region): return true
            case .ended:
                notices.post(notice)
                return false
            default: continue
            }
        }
        return false
    }

    struct NoEnd: Error {}
}
