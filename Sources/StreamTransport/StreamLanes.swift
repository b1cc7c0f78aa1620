/// The connections a `StreamTransport` is made of, in the order of their lanes: the urgent lane first.
public struct StreamLanes: ~Copyable {
    /// The most lanes a transport has.
    public static let most = 16

    private(set) var descriptors: FixedTable<Descriptor>

    public init() {
        descriptors = FixedTable(capacity: Self.most)
    }

    public var count: Int { descriptors.count }

    /// Adds a connection whose handshake is done.
    ///
    /// - Precondition: fewer than `most` lanes.
    public mutating func append(_ connection: consuming StreamConnection) {
        append(adopting: connection.release())
    }

    /// Takes over a connected stream socket.
    public mutating func append(adopting descriptor: Int32) {
        descriptors.append(Descriptor(owning: descriptor))
    }

    /// Gives up the descriptor at `index`.
    mutating func take(_ index: Int) -> Descriptor {
        var taken = Descriptor(owning: -1)
        swap(&taken, &descriptors[index])
        return taken
    }
}
