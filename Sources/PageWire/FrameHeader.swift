import PageCore

/// What a frame is. Raw values are wire tags and are never reused.
public enum FrameKind: UInt8, Sendable, Hashable, CaseIterable {
    /// Both ways, first: a `Hello`; says who speaks and what it can do.
    case hello = 1
    /// Source to destination: the region table.
    case regionTable = 2
    /// Both ways: the handshake is accepted, lanes may carry traffic.
    case accept = 3
    /// Both ways: the session ends, with a code and a line of text.
    case failure = 4

    /// Both ways: an opaque piece of the machine state (from the source) or of its return path (to the source).
    case machineState = 8
    /// Both ways: this direction of the machine state has ended.
    case machineStateEnd = 9
    /// Source to destination: the guest has stopped; from now on its pages are final and requests are served.
    case guestStopped = 10
    /// Destination to source: the machine state has been loaded; the guest is ready to run here.
    case loaded = 11
    /// Source to destination: the commit. The source will never resume; the destination may.
    case commit = 12
    /// Destination to source: the guest runs here.
    case resumed = 13

    /// Destination to source: a thread waits for page `argument`; the range around it is its window, `stride` says which
    /// pages of it.
    case request = 16
    /// Source to destination: the bytes of a range follow as the payload.
    case pages = 17
    /// Source to destination: the range reads as zero; nothing follows.
    case zeroPages = 18
    /// Destination to source: nobody waits, but the range will be needed soon, or every `stride`th page of it.
    case prefetch = 19
    /// Destination to source: `argument` more bytes of bulk payload may be sent.
    case credit = 20
    /// Destination to source: the guest gave the range up; its bytes are no longer wanted.
    case removed = 21
    /// Source to destination, once on every lane: nothing more will follow on this lane.
    case allSent = 22
    /// Destination to source: every page is in; the source may let its memory go.
    case allResident = 23

    /// Source to destination, RDMA only: memory that may be read, a `RegionKeys` list as the payload.
    case regionKeys = 24
    /// Source to destination, RDMA only: all keys have been told; pages without one read as zero. Fetching may begin.
    case regionKeysEnd = 25
    /// Source to destination, RDMA only: the range has been looked through, its zero pages have been told.
    case scanned = 26
    /// Destination to source, RDMA only: write the range to the memory that the payload names (`WriteTarget`), with
    /// `sequence` as the immediate.
    case grant = 27

    /// Both ways: answered by `pong` with the same argument.
    case ping = 28
    case pong = 29

    /// Destination to source, on the first connection after a lost link: a part of what it has, `ResidentPages`.
    case residentPages = 30
    /// Source to destination: it has heard that every page is in, and hangs up.
    case farewell = 31
}

/// Why the source sent a range.
public enum PageReason: UInt8, Sendable, Hashable, CaseIterable {
    /// A thread waits for it.
    case demand = 0
    /// It lies around a demanded page.
    case window = 1
    /// Nobody asked: the background push.
    case push = 2
}

/// The fixed head of every frame: 32 bytes, little endian, no padding.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 1 | kind |
/// | 1 | 1 | reason (`pages`, `zeroPages`), else 0 |
/// | 2 | 2 | region |
/// | 4 | 4 | payload length in bytes |
/// | 8 | 8 | first page |
/// | 16 | 4 | number of pages |
/// | 20 | 4 | stride of a `request` or `prefetch`, signed; sequence of a `grant`; else 0 |
/// | 24 | 8 | argument: its meaning depends on the kind |
public struct FrameHeader: Sendable, Hashable {
    /// The length of a header in bytes.
    public static let byteCount = 32

    public var kind: FrameKind
    public var reason: PageReason
    public var region: RegionIndex
    /// The bytes that follow this header.
    public var payloadBytes: Int
    public var firstPage: PageIndex
    public var pageCount: Int
    public var sequence: UInt32
    public var argument: UInt64

    @inlinable
    public init(
        _ kind: FrameKind,
        reason: PageReason = .demand,
        region: RegionIndex = 0,
        payloadBytes: Int = 0,
        firstPage: PageIndex = 0,
        pageCount: Int = 0,
        sequence: UInt32 = 0,
        argument: UInt64 = 0
    ) {
        self.kind = kind
        self.reason = reason
        self.region = region
        self.payloadBytes = payloadBytes
        self.firstPage = firstPage
        self.pageCount = pageCount
        self.sequence = sequence
        self.argument = argument
    }

    /// A header about a range of pages.
    @inlinable
    public init(_ kind: FrameKind, reason: PageReason = .demand, range: PageRange, payloadBytes: Int = 0, sequence: UInt32 = 0) {
        self.init(
            kind, reason: reason, region: range.region, payloadBytes: payloadBytes,
            firstPage: range.first, pageCount: range.count, sequence: sequence)
    }

    /// Of a `request` or `prefetch`, which pages of the range are wanted: 0 all of them; otherwise one in so many, counted
    /// from the demanded page (of a prefetch: from the end of the range where it begins), upwards or, negative, downwards.
    @inlinable public var stride: Int {
        get { Int(Int32(bitPattern: sequence)) }
        set { sequence = UInt32(bitPattern: Int32(newValue)) }
    }

    /// The range of pages this header speaks of.
    @inlinable public var range: PageRange { PageRange(region: region, first: firstPage, count: pageCount) }
}
