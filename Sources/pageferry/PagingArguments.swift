import ArgumentParser
import PageCore
import PageEngine
import PageFerry
import PageWire
import SecureStream
import StreamTransport

/// How memory is taken from a source: where it is, how its pages travel, which come when.
struct PagingArguments: ParsableArguments {
    @Option(help: ArgumentHelp("The source: HOST:PORT, [ADDRESS]:PORT or unix:PATH.", valueName: "address"))
    var connect: String

    @Option(help: "How pages travel: tcp, rdma, or auto, which tries RDMA first.")
    var transport = TransportChoice.tcp

    @Option(help: "Over RDMA, who moves the pages nobody asked for: the destination reads them, or the source writes them.")
    var push = PushMethod.read

    @Option(help: "Bulk lanes wanted beside the urgent lane.")
    var bulkLanes = 2

    @Option(
        help: ArgumentHelp(
            "Fetch this much around a demanded page: a size, or as much as the faults so far suggest.", valueName: "size|adaptive"))
    var window = WindowArgument(policy: WindowPolicy(windowBytes: 64 << 10))

    @Option(help: ArgumentHelp("Bytes of pushed pages that may be on the way at once.", valueName: "size"))
    var credit: SizeArgument?

    @Flag(help: "Fetch only what the guest needs, and what lies around it; the session lasts as long as the guest then.")
    var noPush = false

    @Option(
        help: ArgumentHelp(
            "Write to this file which pages were needed, in order. Each touched page by itself: --window 4K --no-push.", valueName: "file"))
    var recordTrace: String?

    @Option(help: ArgumentHelp("Pull the pages of this recorded trace first.", valueName: "file"))
    var replayTrace: String?

    @Flag(
        inversion: .prefixedNo,
        help: "Allocate memory for what the source holds before the switch, so that no page waits for it; or as pages come.")
    var prefault = true

    @OptionGroup var polling: PollArguments

    @OptionGroup(title: "Security") var security: SecurityArguments

    @OptionGroup var pause: PauseArguments

    @OptionGroup var confinement: ConfinementArguments

    func validate() throws {
        guard (0...15).contains(bulkLanes) else { throw ValidationError("--bulk-lanes takes 0 to 15") }
        guard (4096...(2 << 20)).contains(window.policy.windowBytes) else { throw ValidationError("--window takes 4K to 2M") }
        if let credit, !((64 << 10)...(1 << 30)).contains(credit.bytes) { throw ValidationError("--credit takes 64K to 1G") }
    }

    func connectorConfiguration(features: ProtocolFeatures) throws(CommandFailure) -> DestinationConnector.Configuration {
        var configuration = DestinationConnector.Configuration()
        configuration.features = features
        configuration.bulkLanes = bulkLanes
        configuration.transport = transport
        configuration.push = push
        configuration.security = try security.security(.client)
        return configuration
    }

    func sourceAddress() throws(CommandFailure) -> StreamAddress {
        let address = try attempt { () throws(StreamError) in try StreamAddress(parsing: connect) }
        try security.check(address, transport)
        return address
    }

    /// Connects to the source and learns what it offers.
    func connector(features: ProtocolFeatures) throws(CommandFailure) -> DestinationConnector {
        let configuration = try connectorConfiguration(features: features)
        // A file that is no trace is told of before anybody is bothered.
        if let replayTrace { _ = try TraceFile.read(replayTrace) }
        let address = try sourceAddress()
        let connector = try attempt { () throws(SessionError) in
            try DestinationConnector(to: address, configuration: configuration)
        }
        if let fallback = connector.fallback { Console.info("using TCP: \(fallback)") }
        do throws(CommandFailure) {
            _ = try replayed(for: connector.layout)
        } catch {
            connector.refuse(.cancelled)
            throw error
        }
        return connector
    }

    /// The trace to replay, which must be of the memory that the source offers; nil when none is wanted.
    private func replayed(for layout: RegionLayout) throws(CommandFailure) -> PageTrace? {
        guard let replayTrace else { return nil }
        let trace = try TraceFile.read(replayTrace)
        guard trace.fits(layout) else {
            throw CommandFailure(
                "\(replayTrace): \(TraceError.otherMemory(traced: trace.regions, offered: PageTrace.regions(of: layout)))", .dataError)
        }
        return trace
    }

    /// Allocates guest memory for as long as a source waits patiently; the guest still runs there.
    func prefault(_ regions: DestinationRegions, from connector: borrowing DestinationConnector) throws(CommandFailure) {
        guard prefault else { return }
        do throws(SessionError) {
            try connector.prefault(regions, deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 60_000_000_000)
        } catch {
            throw CommandFailure(error)
        }
    }

    /// - Parameter layout: what the source offers.
    func sessionConfiguration(for layout: RegionLayout) throws(CommandFailure) -> DestinationSession.Configuration {
        var configuration = DestinationSession.Configuration()
        configuration.window = window.policy
        configuration.creditBytes = noPush ? 0 : credit?.bytes
        configuration.recordsTrace = recordTrace != nil
        configuration.replay = try replayed(for: layout)
        configuration.push = push
        configuration.copiesPush = !prefault
        configuration.polling = polling.polling
        configuration.pauseNanoseconds = pause.nanoseconds(orElse: .max)
        return configuration
    }
}
