import Glibc
import PageCore
import StreamTransport

// Connections that somebody else has made: a migration's, after its machine state, or those of a VMM that keeps its own.
extension SourceServer {
    /// Listens nowhere, and serves who comes over these sockets, and over those of later calls to `adopt`.
    public convenience init(adopting sockets: AdoptedSockets, layout: RegionLayout, configuration: Configuration) {
        self.init(listener: nil, verbs: nil, layout: layout, configuration: configuration)
        adopt(sockets)
    }

    /// Takes connections that are made, as if a listener had accepted them: those of a destination that opens a session over them, or
    /// comes back to one. Each waits, without a limit, until its destination speaks or hangs up, or the server is stopped.
    public func adopt(_ sockets: AdoptedSockets) {
        while let socket = sockets.takeFirst() {
            let isAdmitted = admit { [self] in
                if hasSpoken(socket) { greet(.stream(socket)) } else { close(socket) }
            }
            if !isAdmitted { close(socket) }
        }
    }

    /// Waits for the first byte of a connection, or its end.
    ///
    /// - Returns: false when the server was stopped first.
    private func hasSpoken(_ socket: Int32) -> Bool {
        while true {
            var entries = [
                pollfd(fd: stopEvent, events: Int16(POLLIN), revents: 0), pollfd(fd: socket, events: Int16(POLLIN), revents: 0),
            ]
            // SAFETY: two local entries, for the duration of the call.
            _ = unsafe poll(&entries, 2, -1)
            if entries[0].revents != 0 { return false }
            if entries[1].revents != 0 { return true }
        }
    }
}
