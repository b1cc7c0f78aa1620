import CPageFerry
import PageCore
import PageEngine
import PageFerry
import SecureStream
import StreamTransport

/// Memory that is being filled.
final class LibraryDestination: LibrarySession {
    let events = Mailbox<LibraryEvent>()
    private let session: DestinationSession
    /// Where it may lead later, too.
    private let security: LibrarySecurity
    private let transport: TransportChoice
    /// Whether it outlives its link at all.
    private let mayPause: Bool

    private static let secondNanoseconds: UInt64 = 1_000_000_000

    /// Connects, and fills memory from then on.
    ///
    /// SAFETY: what the options point to is the caller's, and lives for the call, as the header says; nothing keeps it.
    static func open(_ options: pageferry_destination_options) throws(LibraryError) -> LibraryDestination {
        let security = try unsafe LibrarySecurity(options.security)
        let transport = try unsafe Options.transport(options.transport)
        let address = try unsafe security.address(options.connect, transport)
        let sessionConfiguration = try unsafe configuration(options)
        guard unsafe options.bulk_lanes <= 15 else { throw .argument("bulk_lanes is more than 15") }
        let adopted = try unsafe LibrarySockets(options.adopted_descriptors, options.adopted_count)
        if let adopted { try security.check(adopted.sockets) }
        guard adopted != nil || address != nil else { throw .argument("connect is NULL, and no descriptors are given to be adopted") }
        let regions = try unsafe Options.regions(options)
        var configuration = DestinationConnector.Configuration()
        configuration.bulkLanes = Int(unsafe options.bulk_lanes)
        configuration.transport = transport
        configuration.security = try security.lanes(.client)
        let opened: OpenedDestination
        do throws(SessionError) {
            if let adopted {
                opened = try DestinationConnector(adopting: adopted.sockets, returningTo: address, configuration: configuration).accept(
                    regions)
            } else {
                opened = try DestinationConnector(to: address!, configuration: configuration).accept(regions)
            }
        } catch { throw LibraryError(error) }
        adopted?.takeOver()
        return LibraryDestination(opened, regions, sessionConfiguration, security, transport)
    }

    private static func configuration(
        _ options: pageferry_destination_options
    ) throws(LibraryError) -> DestinationSession.Configuration {
        let windowBytes = unsafe options.window_bytes == 0 ? 64 << 10 : options.window_bytes
        guard (4096...(2 << 20)).contains(windowBytes) else {
            throw .argument("window_bytes is \(windowBytes); 4096 to 2097152 are possible")
        }
        let patience = unsafe options.give_up_after_seconds
        guard patience >= -1 else { throw .argument("give_up_after_seconds is below -1") }
        var configuration = DestinationSession.Configuration()
        configuration.window = WindowPolicy(windowBytes: Int(windowBytes))
        if unsafe options.no_push != 0 { configuration.creditBytes = 0 }
        configuration.pauseNanoseconds = patience < 0 ? .max : UInt64(patience) * secondNanoseconds
        return configuration
    }

    private init(
        _ opened: OpenedDestination, _ regions: DestinationRegions, _ configuration: DestinationSession.Configuration,
        _ security: LibrarySecurity, _ transport: TransportChoice
    ) {
        self.security = security
        self.transport = transport
        mayPause = configuration.pauseNanoseconds > 0
        let events = events
        session = DestinationSession(opened, regions: regions, machineState: nil, configuration: configuration) { notice in
            switch notice {
            case .guestStopped: events.post(LibraryEvent(kind: PAGEFERRY_EVENT_SERVING))
            case .committed, .regionRemoved: break
            case .paused(let error): events.post(LibraryEvent(kind: PAGEFERRY_EVENT_PAUSED, text: error.description))
            case .restored: events.post(LibraryEvent(kind: PAGEFERRY_EVENT_RESTORED))
            case .allResident: events.post(LibraryEvent(kind: PAGEFERRY_EVENT_ALL_RESIDENT))
            case .ended(let reason):
                let failure = reason.map { LibraryError($0) }
                events.post(LibraryEvent(kind: PAGEFERRY_EVENT_ENDED, status: failure?.status ?? 0, text: failure?.text ?? ""))
            }
        }
    }

    var statistics: pageferry_statistics {
        var statistics = pageferry_statistics()
        statistics.add(session.statistics.read())
        return statistics
    }

    func recover(at address: StreamAddress) throws(LibraryError) {
        try security.check(address, transport)
        session.recover(at: address)
    }

    func adopt(_ sockets: LibrarySockets) throws(LibraryError) {
        guard mayPause else { throw .argument("give_up_after_seconds is 0: this destination ends with its link") }
        try security.check(sockets.sockets)
        session.recover(adopting: sockets.sockets)
        sockets.takeOver()
    }

    func end() { session.end(.cancelled) }

    func close() {
        end()
        session.join()
    }
}
