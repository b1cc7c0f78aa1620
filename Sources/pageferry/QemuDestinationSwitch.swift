import Glibc
import Handoff
import PageCore
import PageFerry
import PageWire

/// Loads a machine whose memory is handed over and takes its commit, then fills its memory to the last page.
struct QemuDestinationSwitch {
    enum Event: Sendable {
        case notice(DestinationNotice)
        case loaded
        case loadFailed(QemuError)
        case processEnded
        case signal(Int32)
    }

    private static let loadTimeoutNanoseconds: UInt64 = 120_000_000_000

    let command: DestinationCommand
    let qemu: QemuDestination
    let switchGuard: SwitchGuard
    let events: Mailbox<Event>
    /// What a daemon that takes over cannot know by itself; nil when its command line says it.
    var backendNames: [String]?

    /// - Parameters:
    ///   - state: where it is put down how far this has come.
    ///   - isCommitted: whether the guest is this host's, also when this throws.
    func run(
        _ connector: consuming DestinationConnector, _ regions: DestinationRegions, _ state: StateDirectory?, _ isCommitted: inout Bool
    ) throws(CommandFailure) {
        let (events, paging) = (events, command.paging)
        let opened: OpenedDestination
        do throws(SessionError) { opened = try connector.accept(regions) } catch { throw CommandFailure(error) }
        var configuration = try command.paging.sessionConfiguration(for: opened.layout)
        var progress: TakeoverProgress?
        if let state {
            progress = try TakeoverProgress(state, opened, process: qemu.process, backendNames: backendNames)
            configuration.record = progress?.record
        }
        let socket = try attempt { () throws(QemuError) in try qemu.beginIncoming() }
        SwitchStep.loading.reached()
        let session = DestinationSession(opened, regions: regions, machineState: socket, configuration: configuration) {
            events.post(.notice($0))
        }
        let control = try DaemonControl(path: command.paging.pause.control) { address throws(CommandFailure) in
            try paging.security.check(address, paging.transport)
        }
        _ = control.addDestination(session, peer: command.paging.connect)
        watchProcess()
        let loader = load()
        let failure = serve(session, loader, progress, &isCommitted)
        session.join()
        let statistics = session.statistics.read()
        try command.report(session, error: failure?.text)
        if let failure {
            guard isCommitted else { throw failure }
            throw CommandFailure(
                "after the switch: \(failure.text); \(statistics.missingPages) of \(statistics.totalPages) pages are missing, the guest is frozen where it touches them",
                failure.status)
        }
        progress?.forget()
        Console.info("every page is here: \(Console.line(statistics))")
        withExtendedLifetime(control) {}
    }

    private func watchProcess() {
        let events = events
        let descriptor = qemu.processDescriptor
        guard descriptor >= 0 else { return }
        _ = DedicatedThread(name: "vmm-end") {
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            // SAFETY: one local entry, for the duration of the call.
            while unsafe poll(&entry, 1, -1) <= 0 {}
            events.post(.processEnded)
        }
    }

    /// Waits for the machine state on a thread of its own; nobody else uses the monitor meanwhile.
    private func load() -> DedicatedThread {
        let events = events
        let box = UncheckedBox(qemu)
        return DedicatedThread(name: "qmp") {
            do throws(QemuError) {
                try box.value.waitForLoaded(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + Self.loadTimeoutNanoseconds)
                events.post(.loaded)
            } catch {
                events.post(.loadFailed(error))
            }
        }
    }

    // MARK: The session

    /// Runs the session to its end.
    private func serve(
        _ session: DestinationSession, _ loader: DedicatedThread, _ progress: TakeoverProgress?, _ isCommitted: inout Bool
    ) -> CommandFailure? {
        var failure: CommandFailure?
        var isLoading = true
        var signals = 0
        defer { if isLoading { qemu.kill(); loader.join() } }
        while true {
            let progressDeadline = MonotonicClock.nowNanoseconds() + 250_000_000
            guard let event = events.next(deadlineNanoseconds: progressDeadline) else {
                Console.progress(Console.line(session.statistics.read()))
                continue
            }
            switch event {
            case .loaded:
                loader.join()
                isLoading = false
                SwitchStep.loaded.reached()
                if let progress {
                    // A daemon that takes over may go on from here, so it must know before the source may commit.
                    progress.loaded()
                    switchGuard.release()
                }
                session.loaded()
                SwitchStep.confirmed.reached()
            case .loadFailed(let error):
                loader.join()
                isLoading = false
                failure = failure ?? CommandFailure(error)
                session.end(.peerFailed(Failure(.virtualMachine, "the destination's \(error.description)")))
            case .notice(.guestStopped), .notice(.allResident), .notice(.regionRemoved):
                break
            case .notice(.paused(let error)):
                Console.lost(error)
            case .notice(.restored):
                Console.info("the source was found again")
            case .notice(.committed):
                isCommitted = true
                progress?.committed()
                switchGuard.release()
                SwitchStep.taken.reached()
                do throws(QemuError) {
                    _ = try qemu.resume()
                    progress?.resumed()
                    SwitchStep.resumed.reached()
                    session.resumed()
                    Console.info("the guest runs here; its pages follow")
                } catch {
                    failure = CommandFailure(error)
                    session.end(.peerFailed(Failure(.virtualMachine, error.description)))
                }
            case .notice(.ended(let reason)):
                if failure == nil, let reason { failure = CommandFailure(reason) }
                return failure
            case .processEnded:
                failure = failure ?? CommandFailure("QEMU has ended", .software)
                session.end(.processEnded)
            case .signal:
                guard !isCommitted else {
                    if isPausedTwice(session, &signals) {
                        failure = CommandFailure("given up by a signal while the link was lost", .temporaryFailure)
                        session.end(.cancelled)
                        continue
                    }
                    Console.info("the guest runs here and its pages are still arriving; ending when they are in")
                    continue
                }
                failure = CommandFailure("cancelled; the guest goes on at the source", .temporaryFailure)
                session.end(.cancelled)
            }
        }
    }

    /// Whether a signal has come for the second time in a pause: the operator knows that the guest stays frozen then.
    private func isPausedTwice(_ session: DestinationSession, _ signals: inout Int) -> Bool {
        signals = session.statistics.read().phase == .postcopyPaused ? signals + 1 : 0
        if signals == 1 { Console.info("paused; a second signal gives up, and leaves the guest frozen where it touches missing pages") }
        return signals > 1
    }
}
