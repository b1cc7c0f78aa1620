import Handoff
import PageCore
import PageFerry

/// Waits for memory handed over by another process, and fills it from a source that serves a memory file.
struct HandoffDestination {
    private enum Event: Sendable {
        case notice(DestinationNotice)
        case signal(Int32)
    }

    let command: DestinationCommand

    func run() throws(CommandFailure) {
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let path = command.handoff ?? ""
        let listener = try attempt { () throws(HandoffError) in try HandoffListener(path: path) }
        let connector = try command.connector(features: [])
        Console.info("waiting for memory on \(path)")
        guard let connection = try accept(listener, events) else {
            connector.refuse(.cancelled)
            return
        }
        let handedOver = try attempt { () throws(HandoffError) in
            try connection.receiveRegions(timeoutNanoseconds: 30_000_000_000)
        }
        let list = try DestinationRegion.list(from: handedOver)
        let regions = try attempt { () throws(SessionError) in try DestinationRegions(list) }
        if command.prefault { try command.prefault(regions) }
        let opened: OpenedDestination
        do throws(SessionError) {
            opened = try connector.accept(regions)
        } catch {
            try? connection.refuse(error.description)
            throw CommandFailure(error)
        }
        let session = DestinationSession(
            opened, regions: regions, machineState: nil, configuration: try command.sessionConfiguration(for: opened.layout)
        ) { events.post(.notice($0)) }
        try attempt { () throws(HandoffError) in try connection.acknowledge() }
        try finish(session, events)
    }

    /// - Returns: nil when a signal came first.
    private func accept(_ listener: borrowing HandoffListener, _ events: Mailbox<Event>) throws(CommandFailure) -> HandoffConnection? {
        while true {
            do throws(HandoffError) {
                return try listener.accept(timeoutNanoseconds: 200_000_000)
            } catch .timedOut {
                for event in events.takeAll() {
                    if case .signal = event { return nil }
                }
            } catch {
                throw CommandFailure(error)
            }
        }
    }

    private func finish(_ session: DestinationSession, _ events: Mailbox<Event>) throws(CommandFailure) {
        while true {
            let progressDeadline = MonotonicClock.nowNanoseconds() + 250_000_000
            guard let event = events.next(deadlineNanoseconds: progressDeadline) else {
                Console.progress(Console.line(session.statistics.read()))
                continue
            }
            switch event {
            case .signal:
                // The process uses its memory already: left alone it would wait for ever.
                if session.statistics.read().phase == .postcopyPaused {
                    session.end(.cancelled)
                    continue
                }
                Console.info("the memory is in use and its pages are still arriving; ending when they are in")
            case .notice(.ended(let reason)):
                session.join()
                let statistics = session.statistics.read()
                try command.report(session, error: reason?.description)
                if let reason {
                    throw CommandFailure(
                        "\(reason.description); \(statistics.missingPages) of \(statistics.totalPages) pages are missing, the process is frozen where it touches them",
                        CommandFailure(reason).status)
                }
                Console.info("every page is here: \(Console.line(statistics))")
                return
            case .notice(.paused(let error)):
                Console.lost(error)
            case .notice(.restored):
                Console.info("the source was found again")
            case .notice:
                continue
            }
        }
    }
}
