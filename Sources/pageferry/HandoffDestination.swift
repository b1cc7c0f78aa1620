import Handoff
import NativeHandoff
import PageCore
import PageFerry

/// Waits for memory handed over by another process, and fills it from a source that serves a memory file.
struct HandoffDestination {
    private enum Event: Sendable {
        case notice(DestinationNotice)
        case signal(Int32)
    }

    let command: DestinationCommand
    let handoff: HandoffArgument

    func run() throws(CommandFailure) {
        var service = Service()
        let events = Mailbox<Event>()
        SignalWatch.start { events.post(.signal($0)) }
        let path = handoff.path
        let state: StateDirectory? = if let path = command.state { try StateDirectory(path) } else { nil }
        let listener = try attempt { () throws(HandoffError) in try HandoffListener(path: path, owner: command.handoffOwner?.identifier) }
        if let state, let left = try state.read(DestinationState.self, from: DestinationState.name) {
            return try takeOver(left, state, listener, events, &service)
        }
        _ = service.keptMemory(nil, handoff.form)
        let connector = try command.paging.connector(features: [])
        service.ready("waiting for memory on \(path)")
        guard let memory = try AwaitedMemory.receive(listener, as: handoff.form, again: false, isCancelled: { isCancelled(events) }) else {
            connector.refuse(.cancelled)
            return
        }
        let list = try memory.destinationRegions()
        let regions = try attempt { () throws(SessionError) in try DestinationRegions(list) }
        if command.paging.prefault { try command.paging.prefault(regions) }
        let opened: OpenedDestination
        do throws(SessionError) {
            opened = try connector.accept(regions)
        } catch {
            memory.refuse(error.description)
            throw CommandFailure(error)
        }
        var configuration = try command.paging.sessionConfiguration(for: opened.layout)
        if let state {
            configuration.record = try attempt { () throws(SessionError) in
                try ResidentRecord.create(path: state.file(DestinationState.recordName), layout: opened.layout)
            }
            var left = DestinationState(ticket: opened.ticket)
            left.kept = try service.keep(memory.regions)
            left.firecracker = try memory.firecracker()
            try state.write(left, to: DestinationState.name)
        }
        try serve(opened, regions, configuration, memory, isAnswered: false, state, events, &service)
    }

    private func serve(
        _ opened: OpenedDestination, _ regions: DestinationRegions, _ configuration: DestinationSession.Configuration,
        _ memory: borrowing AwaitedMemory, isAnswered: Bool, _ state: StateDirectory?, _ events: Mailbox<Event>, _ service: inout Service
    ) throws(CommandFailure) {
        let session = DestinationSession(opened, regions: regions, machineState: nil, configuration: configuration) {
            events.post(.notice($0))
        }
        let control = try DaemonControl(path: command.paging.pause.control) { address throws(CommandFailure) in
            try command.paging.security.check(address, command.paging.transport)
        }
        _ = control.addDestination(session, peer: command.paging.connect)
        try command.paging.confinement.begin()
        if !isAnswered {
            try memory.acknowledge()
            if state != nil { service.keepClient(memory) }
        }
        try finish(session, memory, events, &service)
        withExtendedLifetime(control) {}
        // What failed is left for a daemon that may do better.
        if state != nil { service.forgetMemory(memory.regions.count) }
        state?.remove(DestinationState.name)
        state?.remove(DestinationState.recordName)
    }

    /// Goes on where a daemon that died has stopped: the memory is handed over again, the source is looked for.
    private func takeOver(
        _ left: DestinationState, _ state: StateDirectory, _ listener: borrowing HandoffListener, _ events: Mailbox<Event>,
        _ service: inout Service
    ) throws(CommandFailure) {
        var kept = service.keptMemory(left.kept, handoff.form)
        if kept == nil, let firecracker = left.firecracker { kept = try AwaitedMemory.reclaimed(firecracker) }
        let isKept = kept != nil
        service.ready(
            "taking over from a daemon that died; " + (isKept ? "its memory was kept" : "waiting for its memory on \(listener.path)"))
        if !isKept { kept = try AwaitedMemory.receive(listener, again: true, isCancelled: { isCancelled(events) }) }
        guard let memory = kept.take() else { return }
        if !isKept {
            var left = left
            left.kept = try service.keep(memory.regions)
            try state.write(left, to: DestinationState.name)
        }
        let list = try memory.destinationRegions()
        let regions = try attempt { () throws(SessionError) in try DestinationRegions(list) }
        let record = try attempt { () throws(SessionError) in
            try ResidentRecord.open(path: state.file(DestinationState.recordName), layout: regions.layout)
        }
        let opened = OpenedDestination.takingOver(
            left.ticket, layout: regions.layout, address: try command.paging.sourceAddress(),
            configuration: try command.paging.connectorConfiguration(features: []))
        var configuration = try command.paging.sessionConfiguration(for: regions.layout)
        configuration.takeover = DestinationSession.Takeover(record: record, standing: nil)
        try serve(opened, regions, configuration, memory, isAnswered: isKept, state, events, &service)
    }

    private func isCancelled(_ events: Mailbox<Event>) -> Bool {
        events.takeAll().contains { if case .signal = $0 { true } else { false } }
    }

    private func finish(
        _ session: DestinationSession, _ memory: borrowing AwaitedMemory, _ events: Mailbox<Event>,
        _ service: inout Service
    ) throws(CommandFailure) {
        var isThere = true
        while true {
            // The kernel tells only whoever fills its memory, and in a pause, or without a push, nobody does.
            if isThere, memory.hasEnded {
                isThere = false
                if session.statistics.read().missingPages > 0 { session.end(.processEnded) }
            }
            let progressDeadline = MonotonicClock.nowNanoseconds() + 250_000_000
            guard let event = events.next(deadlineNanoseconds: progressDeadline) else {
                service.progress(Console.line(session.statistics.read()))
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
