import Glibc
import PageCore
import StreamTransport
import Synchronization
import Verbs
import VerbsTransport

// The threads that take connections: one a listener, and one for each handshake.
extension SourceServer {
    /// Handshakes beyond those that all sessions together need: refusals, strangers, and threads about to end.
    private static let spareHandshakes = 64
    /// Between two looks for an RDMA device that was taken away.
    private static let listenAgainMilliseconds: Int32 = 1_000

    func acceptConnections(_ listener: consuming StreamListener) {
        var listener = listener
        while true {
            do throws(StreamError) {
                guard let connection = try listener.accept(timeoutNanoseconds: .max, wake: stopEvent) else { return }
                admit(connection)
            } catch {
                arrivals.post(.failed(.cannotConnect(error.description)))
                return
            }
        }
    }

    func acceptRequests(_ listener: consuming VerbsListener) {
        let address = listener.address
        var listener: VerbsListener? = consume listener
        while true {
            do throws(VerbsError) {
                guard let request = try listener!.nextRequest(timeoutNanoseconds: .max, wake: stopEvent) else { return }
                admit(request)
            } catch {
                guard case .deviceRemoved = error else { return arrivals.post(.failed(.cannotConnect(error.description))) }
                // Sessions go on without the device, and those it carried come back, over TCP or once it is there again.
                arrivals.post(.refused(peer: "RDMA", .cannotConnect("\(error); it is offered again once the device is back")))
                listener = nil
                listener = listenAgain(on: address)
                if listener == nil { return }
            }
        }
    }

    /// Listens for RDMA as soon as that is possible again.
    ///
    /// - Returns: nil when the server is to stop.
    private func listenAgain(on address: VerbsAddress) -> VerbsListener? {
        var stop = pollfd(fd: stopEvent, events: Int16(POLLIN), revents: 0)
        // SAFETY: one local entry, for the duration of the call.
        while unsafe poll(&stop, 1, Self.listenAgainMilliseconds) <= 0 {
            if let listener = try? VerbsListener(on: address) { return listener }
        }
        return nil
    }

    private func admit(_ request: VerbsConnection) {
        admit { [self] in
            do throws(VerbsError) {
                try request.accept(timeoutNanoseconds: configuration.stepTimeoutNanoseconds)
            } catch {
                return arrivals.post(.refused(peer: request.peerDescription, SessionError(error)))
            }
            greet(.verbs(request))
        }
    }

    private func admit(_ connection: consuming StreamConnection) {
        let socket = connection.release()
        if !admit({ [self] in greet(.stream(socket)) }) { Glibc.close(socket) }
    }

    /// Handshakes run on threads of their own; no more of them than sessions and their lanes can need.
    @discardableResult
    private func admit(_ handshake: @escaping @Sendable () -> Void) -> Bool {
        // One more than sessions can need would do, were a handshake over the moment its peer learns of it.
        let most = configuration.mostSessions * configuration.mostLanes + Self.spareHandshakes
        let isAdmitted = state.withLock { state in
            guard state.handshakes < most else { return false }
            state.handshakes += 1
            return true
        }
        guard isAdmitted else { return false }
        _ = DedicatedThread(name: "handshake") { [self] in
            handshake()
            state.withLock { $0.handshakes -= 1 }
        }
        return true
    }
}
