import PageCore
import PageWire

@testable import PageFerry

/// Both sides of the handshake over a socket. The first byte chooses which; the rest is what the peer says.
enum HandshakeTarget {
    private static let timeoutNanoseconds: UInt64 = 10_000_000_000
    private static let session = SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)
    private static let offer = SessionOffer(session: session, laneCount: 2, features: [], layout: WireTargets.layout)

    static func run(_ input: [UInt8]) {
        guard let choice = input.first else { return }
        let socket = PeerSocket(saying: Array(input.dropFirst()))
        do throws(SessionError) {
            var channel = try StreamSetupChannel(adopting: socket.ours)
            switch choice % 3 {
            case 0: try source(&channel)
            case 1: try destination(&channel)
            default:
                let again = try DestinationHandshake.resume(
                    &channel, session, lanesWanted: 2, layout: WireTargets.layout, resident: [], timeoutNanoseconds: timeoutNanoseconds)
                require(again.session == session && again.laneCount <= 2, "a session is resumed with one that knows its secret")
            }
        } catch {
            require(!error.description.contains("\n"), "a refusal is one line")
        }
        withExtendedLifetime(socket.ours) {}
    }

    private static func source(_ channel: inout StreamSetupChannel) throws(SessionError) {
        let hello = try SourceHandshake.greet(&channel, timeoutNanoseconds: timeoutNanoseconds)
        require(hello.role == .destination, "a source speaks to destinations only")
        if session.matches(hello.session) {
            let resident = try SourceHandshake.resume(&channel, offer, timeoutNanoseconds: timeoutNanoseconds)
            withExtendedLifetime(resident) {}
        } else {
            try SourceHandshake.offer(&channel, offer, timeoutNanoseconds: timeoutNanoseconds)
        }
    }

    private static func destination(_ channel: inout StreamSetupChannel) throws(SessionError) {
        let offered = try DestinationHandshake.open(&channel, lanesWanted: 3, features: [], timeoutNanoseconds: timeoutNanoseconds)
        require(offered.laneCount <= 3, "a source grants no more lanes than were wanted")
        try DestinationHandshake.match(offered.layout, with: WireTargets.layout)
        try DestinationHandshake.accept(&channel, timeoutNanoseconds: timeoutNanoseconds)
    }

    static var seeds: [[UInt8]] {
        func hello(_ role: SessionRole, _ session: SessionIdentity) -> [UInt8] {
            WireTargets.frame(.hello, Hello(role: role, lane: 0, laneCount: 2, features: [], session: session).encoded())
        }
        let layout = WireTargets.layout
        var pages = PageBitmap(pageCount: layout.totalPages)
        pages.insert(3..<700)
        let resident = ResidentPages.encode(pages).flatMap { WireTargets.frame(.residentPages, $0) }
        let accept = WireTargets.frame(.accept)
        return [
            [0] + hello(.destination, .unassigned) + accept,
            [0] + hello(.destination, session) + resident + accept,
            [1] + hello(.source, session) + WireTargets.frame(.regionTable, RegionTable.encode(layout)),
            [2] + hello(.source, session),
            [1] + WireTargets.frame(.failure, Array("busy".utf8)),
        ]
    }
}
