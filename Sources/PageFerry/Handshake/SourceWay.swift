import PageWire
import StreamTransport
import Verbs
import VerbsTransport

/// How a source is reached: over sockets that were given, as long as there are any, else at an address.
struct SourceWay: Sendable {
    /// nil when nobody knows it.
    var address: StreamAddress?
    /// Connected already; each is taken once. nil where lanes are connected here.
    var sockets: AdoptedSockets?

    /// Whether there is any way.
    var isKnown: Bool { address != nil || sockets != nil }

    /// The lanes to ask a source for, the urgent one included.
    func laneCount(_ configuration: DestinationConnector.Configuration, isRDMA: Bool) -> Int {
        if let sockets { return sockets.count }
        return min((isRDMA ? 2 : 1) + configuration.bulkLanes, Hello.mostLanes)
    }

    /// Connects the urgent lane of a new session.
    ///
    /// - Parameter fallback: why it is not RDMA although that was tried.
    func connectFirst(
        _ configuration: DestinationConnector.Configuration, _ fallback: inout SessionError?
    ) throws(SessionError) -> LaneChannel {
        if configuration.transport == .tcp || sockets != nil { return try connectStream(configuration) }
        do throws(SessionError) {
            return try connectVerbs(configuration, nil)
        } catch {
            guard configuration.transport == .auto else { throw error }
            fallback = error
            return try connectStream(configuration)
        }
    }

    /// Connects one lane.
    ///
    /// - Parameter domain: where memory is registered; nil for a stream.
    func connect(
        _ configuration: DestinationConnector.Configuration, _ domain: ProtectionDomain?
    ) throws(SessionError) -> LaneChannel {
        domain == nil || sockets != nil ? try connectStream(configuration) : try connectVerbs(configuration, domain)
    }

    private func connectVerbs(
        _ configuration: DestinationConnector.Configuration, _ domain: ProtectionDomain?
    ) throws(SessionError) -> LaneChannel {
        guard case .tcp(let host, let port)? = address else {
            let name = address?.description ?? "no address"
            throw .cannotConnect("RDMA needs a host and a port, and \(name) is neither; use --transport tcp")
        }
        do throws(VerbsError) {
            let connection = try VerbsConnection.connect(
                to: VerbsAddress(host: host, port: port), domain: domain, timeoutNanoseconds: configuration.connectTimeoutNanoseconds)
            return LaneChannel(VerbsSetupChannel(connection))
        } catch {
            throw SessionError(error)
        }
    }

    private func connectStream(_ configuration: DestinationConnector.Configuration) throws(SessionError) -> LaneChannel {
        var host: String?
        if case .tcp(let name, _)? = address { host = name }
        return LaneChannel(
            try configuration.security.protect(
                try connection(configuration), host: host, timeoutNanoseconds: configuration.stepTimeoutNanoseconds))
    }

    private func connection(_ configuration: DestinationConnector.Configuration) throws(SessionError) -> StreamConnection {
        do throws(StreamError) {
            if let sockets {
                guard let socket = sockets.takeFirst() else { throw .badCount(sockets: 0) }
                return try StreamConnection(adopting: socket)
            }
            guard let address else { throw .badAddress(text: "", reason: "nobody has said where the source is") }
            return try StreamConnection.connect(to: address, timeoutNanoseconds: configuration.connectTimeoutNanoseconds)
        } catch .cannotResolve(let host, let reason) {
            throw .unknownHost(StreamError.cannotResolve(host: host, reason: reason).description)
        } catch {
            throw .cannotConnect(error.description)
        }
    }
}
