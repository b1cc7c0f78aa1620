import PageCore
import PageWire
import Synchronization

/// The lanes of a destination that has come back, and what it said it has.
struct SourceLink: Sendable {
    /// The urgent lane first.
    var lanes: [ConnectedLane]
    let resident: ResidentMap

    func close() {
        for lane in lanes { lane.close() }
    }
}

/// Which session pages a destination has; shared from the thread of the handshake to that of the session.
final class ResidentMap: Sendable {
    let pages: PageBitmap

    init(_ pages: consuming PageBitmap) { self.pages = pages }
}

/// How a listener reaches a session that is open: when the destination comes back, its new lanes are brought here.
final class SourcePort: Sendable {
    private enum Standing: Sendable { case opening, expected, resumable, over }

    let session: SessionIdentity
    /// What the session's shard is told, by whoever.
    let orders = Mailbox<SourceOrder>()
    /// Set by the shard, before it tells the destination.
    let isCommitted = Atomic<Bool>(false)
    private let standing: Mutex<Standing>

    /// - Parameter isExpected: whether the daemon that served the session has died, and this one takes it over.
    init(_ session: SessionIdentity, isExpected: Bool = false) {
        self.session = session
        standing = Mutex(isExpected ? .expected : .opening)
    }

    /// Whether a destination that has lost its link may come back. Before the switch of a machine it may not: the guest runs
    /// on here in place of that.
    var isResumable: Bool { standing.withLock { $0 == .resumable || $0 == .expected } }
    var isOver: Bool { standing.withLock { $0 == .over } }

    func allowResumption() {
        standing.withLock { if $0 == .opening { $0 = .resumable } }
    }

    /// Whether the session is taken over with the destination's first coming; answers true once.
    func takeExpectation() -> Bool {
        standing.withLock { standing in
            defer { if standing == .expected { standing = .resumable } }
            return standing == .expected
        }
    }

    /// The session is over: whoever comes now is told that it is unknown.
    func end() {
        standing.withLock { $0 = .over }
        for case .restored(let link) in orders.takeAll() { link.close() }
    }

    /// Brings a link. Closes it when the session is over.
    func restore(_ link: SourceLink) {
        let isTaken = standing.withLock { standing in
            guard standing == .resumable else { return false }
            orders.post(.restored(link))
            return true
        }
        if !isTaken { link.close() }
    }
}
