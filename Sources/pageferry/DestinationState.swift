import Handoff
import NativeHandoff
import PageFerry

/// What a destination's daemon leaves for the one that takes over.
struct DestinationState: Codable {
    static let name = "destination.json"
    /// The pages, as `ResidentRecord` keeps them.
    static let recordName = "resident"

    /// Raised when a field changes its meaning.
    var version = 1
    var ticket: SessionTicket
    /// Of a machine; nil without one.
    var standing: DestinationSession.Standing?
    /// The VMM that was started; nil without one.
    var machine: Machine?

    /// The ids of its memory backends, in the order in which they are handed over; nil when the command line that started it has them.
    var backendNames: [String]?

    struct Machine: Codable {
        var process: Int32
        /// When it was started, in clock ticks since boot (/proc/PID/stat, field 22): process numbers are used again.
        var startTicks: UInt64
    }

    /// The memory whose descriptors the service manager keeps; nil when its VMM is to hand it over again.
    var kept: [KeptRegion]?
    /// What that VMM speaks on the connection that is kept too; nil: version 1.
    var handoffVersion: UInt32?

    /// The Firecracker whose memory it is, which hands it over once only: its userfaultfd is taken from it again.
    var firecracker: Firecracker?

    struct Firecracker: Codable {
        var machine: Machine
        var regions: [KeptRegion]
    }

    init(ticket: SessionTicket) { self.ticket = ticket }
}

/// What a source's daemon leaves for the one that takes over: one file a session.
struct SourceState: Codable {
    static let prefix = "session-"
    static let mostSessions = 64

    var version = 1
    var ticket: SessionTicket
    /// The destination, for messages.
    var peer: String
    /// Of a machine: the switch is committed, so it never runs here again.
    var isCommitted = false

    static func name(_ ticket: SessionTicket) -> String { "\(prefix)\(ticket.name).json" }
}
