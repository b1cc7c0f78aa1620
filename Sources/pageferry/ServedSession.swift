import Glibc
import Handoff
import NativeHandoff
import PageCore
import PageFerry

/// A session over handed-over memory while it runs: what it says, what its VMM asks for, what the operator wants.
struct ServedSession {
    let command: DestinationCommand
    let session: DestinationSession
    let state: StateDirectory?
    /// What the state directory has, where there is one.
    var left: DestinationState?
    /// The region that is being taken out; the VMM waits for that, and its next request waits with it.
    private var leaving: RegionIndex?
    /// When the VMM was found to have gone.
    private var vmmEndedNanoseconds: UInt64?

    private static let progressMilliseconds: Int32 = 250
    /// How old the session's statistics may be, several times over: its last page may be in, and not yet be counted.
    private static let patienceNanoseconds: UInt64 = 250_000_000

    init(command: DestinationCommand, session: DestinationSession, state: StateDirectory?, left: DestinationState?) {
        self.command = command
        self.session = session
        self.state = state
        self.left = left
    }

    /// Until the session's end.
    mutating func run(
        _ memory: inout AwaitedMemory, _ events: Mailbox<HandoffDestination.Event>, _ service: inout Service
    ) throws(CommandFailure) {
        while true {
            if !wait(events, memory) { service.progress(Console.line(session.statistics.read())) }
            takeRequest(memory)
            endWithoutVMM()
            for event in events.takeAll() {
                switch event {
                case .signal: signalled()
                case .notice(.regionRemoved(let region)): try removed(region, &memory, &service)
                case .notice(.ended(let reason)): return try ended(reason, memory)
                case .notice(.paused(let error)): Console.lost(error)
                case .notice(.restored): Console.info("the source was found again")
                case .notice: continue
                }
            }
        }
    }

    /// Waits for an event, or for something of the VMM.
    ///
    /// - Returns: false when nothing came in time.
    private func wait(_ events: Mailbox<HandoffDestination.Event>, _ memory: borrowing AwaitedMemory) -> Bool {
        let client = vmmEndedNanoseconds == nil && leaving == nil ? memory.clientDescriptor ?? -1 : -1
        var entries = [events.descriptor, client].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        // SAFETY: local entries, as many as said, for the duration of the call.
        return unsafe poll(&entries, nfds_t(entries.count), Self.progressMilliseconds) > 0
    }

    private mutating func takeRequest(_ memory: borrowing AwaitedMemory) {
        guard vmmEndedNanoseconds == nil, leaving == nil else { return }
        switch memory.nextRequest {
        case .remove(let region):
            leaving = region
            session.remove(region)
        case .ended: vmmEndedNanoseconds = MonotonicClock.nowNanoseconds()
        case nil: break
        }
    }

    /// A VMM that has gone before all was here takes the session along. The kernel tells only whoever fills its memory, and in a pause,
    /// or without a push, nobody does.
    private func endWithoutVMM() {
        guard let vmmEndedNanoseconds, MonotonicClock.nowNanoseconds() - vmmEndedNanoseconds > Self.patienceNanoseconds else { return }
        if session.statistics.read().missingPages > 0 { session.end(.processEnded) }
    }

    /// The session has let go of a region's memory; so does everybody else here, then the VMM hears of it.
    private mutating func removed(
        _ region: RegionIndex, _ memory: inout AwaitedMemory, _ service: inout Service
    ) throws(CommandFailure) {
        memory.remove(Int(region))
        if var left, var kept = left.kept {
            service.forget(KeptMemory.remove(Int(region), from: &kept))
            left.kept = kept
            self.left = left
            try state?.write(left, to: DestinationState.name)
        }
        Console.info("region \(region) was taken out by its VMM")
        guard leaving == region else { return }
        leaving = nil
        memory.finishRequest()
    }

    private func signalled() {
        // The process uses its memory already: left alone it would wait for ever.
        if session.statistics.read().phase == .postcopyPaused { return session.end(.cancelled) }
        Console.info("the memory is in use and its pages are still arriving; ending when they are in")
    }

    private func ended(_ reason: SessionError?, _ memory: borrowing AwaitedMemory) throws(CommandFailure) {
        session.join()
        let statistics = session.statistics.read()
        try command.report(session, error: reason?.description)
        if let reason {
            throw CommandFailure(
                "\(reason.description); \(statistics.missingPages) of \(statistics.totalPages) pages are missing, the process is frozen where it touches them",
                CommandFailure(reason).status)
        }
        memory.tellFinished()
        Console.info("every page is here: \(Console.line(statistics))")
    }
}
