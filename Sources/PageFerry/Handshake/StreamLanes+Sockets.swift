import StreamTransport

extension StreamLanes {
    /// Takes over connected sockets, the urgent lane's first.
    init(_ sockets: [Int32]) {
        self.init()
        for socket in sockets { append(adopting: socket) }
    }
}
