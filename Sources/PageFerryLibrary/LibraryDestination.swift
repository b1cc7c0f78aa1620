import CPageFerry
import PageCore
import PageFerry
import StreamTransport

/// Memory that is being filled.
final class LibraryDestination: LibrarySession {
    let events = Mailbox<LibraryEvent>()
    private let session: DestinationSession
    /// Refuses addresses that opening would not have taken.
    private let check: @Sendable (StreamAddress) throws(LibraryError) -> Void

    init(
        _ opened: OpenedDestination, _ regions: DestinationRegions, configuration: DestinationSession.Configuration,
        check: @escaping @Sendable (StreamAddress) throws(LibraryError) -> Void
    ) {
        self.check = check
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
        try check(address)
        session.recover(at: address)
    }

    func end() { session.end(.cancelled) }

    func close() {
        end()
        session.join()
    }
}
