import Handoff
import NativeHandoff
import PageCore
import PageFerry

/// Waits for memory handed over by another process, and fills it from a source that serves a memory file.
struct HandoffDestination {
    enum Event: Sendable {
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
        guard
            var memory = try AwaitedMemory.receive(
                listener, as: handoff.form, again: false, takesRequests: true, isCancelled: { isCancelled(events) })
        else {
            connector.refuse(.cancelled)
            return
        }
        let list = try memory.destinationRegions()
        let regions = try attempt { () throws(SessionError) in try DestinationRegions(list) }
        try command.paging.prefault(regions, from: connector)
        let opened: OpenedDestination
        do throws(SessionError) {
            opened = try connector.accept(regions)
        } catch {
            memory.refuse(error.description)
            throw CommandFailure(error)
        }
        var configuration = try command.paging.sessionConfiguration(for: opened.layout)
        var kept: DestinationState?
        if let state {
            configuration.record = try attempt { () throws(SessionError) in
                try ResidentRecord.create(path: state.file(DestinationState.recordName), layout: opened.layout)
            }
            var left = DestinationState(ticket: opened.ticket)
            left.kept = try service.keep(memory.regions)
            left.handoffVersion = memory.version
            left.firecracker = try memory.firecracker()
            try state.write(left, to: DestinationState.name)
            kept = left
        }
        try serve(opened, regions, configuration, &memory, isAnswered: false, state, kept, events, &service)
    }

    private func serve(
        _ opened: OpenedDestination, _ regions: DestinationRegions, _ configuration: DestinationSession.Configuration,
        _ memory: inout AwaitedMemory, isAnswered: Bool, _ state: StateDirectory?, _ left: DestinationState?, _ events: Mailbox<Event>,
        _ service: inout Service
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
        var served = ServedSession(command: command, session: session, state: state, left: left)
        try served.run(&memory, events, &service)
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
        var kept = service.keptMemory(left, handoff.form)
        if kept == nil, let firecracker = left.firecracker { kept = try AwaitedMemory.reclaimed(firecracker) }
        let isKept = kept != nil
        service.ready(
            "taking over from a daemon that died; " + (isKept ? "its memory was kept" : "waiting for its memory on \(listener.path)"))
        if !isKept {
            kept = try AwaitedMemory.receive(listener, again: true, takesRequests: true, isCancelled: { isCancelled(events) })
        }
        guard var memory = kept.take() else { return }
        var left = left
        if !isKept {
            left.kept = try service.keep(memory.regions)
            left.handoffVersion = memory.version
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
        try serve(opened, regions, configuration, &memory, isAnswered: isKept, state, left, events, &service)
    }

    private func isCancelled(_ events: Mailbox<Event>) -> Bool {
        events.takeAll().contains { if case .signal = $0 { true } else { false } }
    }
}
