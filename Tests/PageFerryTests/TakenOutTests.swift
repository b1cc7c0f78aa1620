import Foundation
import Glibc
import HostMemory
import PageCore
import PageEngine
import StreamTransport
import TestSupport
import Testing
import Userfault

@testable import PageFerry

/// Regions that are taken out while their pages come, over every transport there is: nothing of the session holds their memory
/// afterwards, and the others come as ever. On the real kernel.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct TakenOutTests {
    private static let pages = 2048

    enum Moment: CaseIterable, Sendable { case beforeAnyPage, whilePagesCome, whenAllIsHere }

    /// What of this process holds session memory: descriptors and mappings of it, and userfaultfds.
    private struct Holders: Equatable {
        var files = 0
        var mappings = 0
        var userfaults = 0

        init() {
            let folder = "/proc/self/fd"
            for entry in (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [] {
                let target = (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\(entry)")) ?? ""
                if target.hasPrefix("/memfd:session-guest") { files += 1 }
                if target == "anon_inode:[userfaultfd]" { userfaults += 1 }
            }
            mappings = (fileText("/proc/self/maps") ?? "").split(separator: "\n").count { $0.contains("/memfd:session-guest") }
        }
    }

    @Test(arguments: Link.all.flatMap { link in GuestKind.allCases.filter { $0 != .hugePages }.map { ($0, link) } }, Moment.allCases)
    func aRegionIsTakenOut(_ way: (kind: GuestKind, link: Link), _ moment: Moment) throws {
        let source = try LocalSource(
            try makeImage(regions: 3, pages: Self.pages), name: "taken-out", startsAtOnce: false, link: way.link)
        defer { source.stop() }
        // The one in the middle goes; with it alone the session's files and mappings.
        let guests = try [GuestKind.anonymous, way.kind, .anonymous].map { try Guest($0, pages: Self.pages) }
        let before = Holders()
        let destination = try LocalDestination(try guests.map { try $0.handOver() }, from: source.address, link: way.link)
        let waiting = WaitingThread(guests[1], page: try #require((500..<Self.pages).first { !Content.isZero($0) }))
        if moment != .beforeAnyPage { source.guestStopped() }
        if moment == .whenAllIsHere { #expect(poll(until: { destination.session.statistics.read().missingPages == 0 })) }
        if destination.remove(1) {
            var after = Holders()
            if after.userfaults != before.userfaults + 2 {
                // Only a session that has every page lets go of the others too.
                #expect(moment != .beforeAnyPage && after.userfaults < before.userfaults + 2)
                #expect(poll(until: { destination.session.statistics.read().missingPages == 0 }))
            }
            after.userfaults = before.userfaults
            #expect(after == before, "files and mappings of the region are the guest's own")
            #expect(poll(until: { waiting.sawContent != nil }), "whoever waited for its memory goes on")
            #expect(destination.remove(1) || moment != .beforeAnyPage, "once more changes nothing")
        } else {
            #expect(moment != .beforeAnyPage, "the session was over before it heard of it")
        }
        let readers = [guests[0], guests[2]].map { $0.startReaders(count: 1, seed: 7) }
        source.guestStopped()
        #expect(try destination.end() == nil)
        for guest in guests { guest.release() }
        for reader in readers { #expect(reader.join() == 0) }
        waiting.join()
        #expect(try #require(source.nextEnd()).reason == nil, "the source agrees that all is there")
    }

    /// Everything is taken out, in every order: nothing is missing then.
    @Test(arguments: [GuestKind.shared, .anonymous], [[0, 1], [1, 0]] as [[RegionIndex]])
    func allRegionsAreTakenOut(_ kind: GuestKind, _ order: [RegionIndex]) throws {
        let source = try LocalSource(try makeImage(regions: 2, pages: Self.pages), name: "all-out", startsAtOnce: false)
        defer { source.stop() }
        let guests = try (0..<2).map { _ in try Guest(kind, pages: Self.pages) }
        let before = Holders()
        let destination = try LocalDestination(try guests.map { try $0.handOver() }, from: source.address)
        for region in order { #expect(destination.remove(region)) }
        #expect(Holders() == before)
        source.guestStopped()
        #expect(try destination.end() == nil)
        let counts = destination.session.statistics.read().counts
        #expect(counts.removed == 2 * Self.pages)
        #expect(try #require(source.nextEnd()).reason == nil)
    }

    /// Threads that give pages of the region up while it is taken out are not left waiting, and regions of nobody's numbers are
    /// not taken for any.
    @Test(arguments: [GuestKind.shared, .anonymous], 1...6) func whileTheGuestGivesPagesUp(_ kind: GuestKind, _ seed: UInt64) throws {
        let source = try LocalSource(try makeImage(regions: 2, pages: Self.pages), name: "out-while", startsAtOnce: false)
        defer { source.stop() }
        let guests = try (0..<2).map { _ in try Guest(kind, pages: Self.pages) }
        let destination = try LocalDestination(try guests.map { try $0.handOver() }, from: source.address)
        let remover = DedicatedThread(name: "remover") {
            var random = SeededRandom(seed: seed)
            for _ in 0..<200 {
                let first = random.next(below: Self.pages - 8)
                _ = guests[0].remove(first..<(first + 8))
            }
        }
        source.guestStopped()
        destination.session.remove(700)
        _ = destination.remove(0)
        remover.join()
        #expect(try destination.end() == nil)
        for guest in guests { guest.release() }
        #expect((0..<Self.pages).allSatisfy { guests[1].words.isRight($0) })
        #expect(try #require(source.nextEnd()).reason == nil)
    }

    /// The link is lost, and stays so: a region is let go meanwhile, and does not wait for a source.
    @Test(arguments: [GuestKind.shared, .anonymous]) func withoutALink(_ kind: GuestKind) throws {
        let source = try LocalSource(
            try makeImage(regions: 2, pages: Self.pages), name: "out-unlinked", startsAtOnce: false, pauseNanoseconds: .max)
        let guests = try (0..<2).map { _ in try Guest(kind, pages: Self.pages) }
        let before = Holders()
        let destination = try LocalDestination(try guests.map { try $0.handOver() }, from: source.address) {
            $0.pauseNanoseconds = .max
        }
        destination.session.recover(at: .unix(path: socketPath("nobody-listens-here")))
        #expect(poll(until: { destination.session.statistics.read().phase == .postcopyPaused }))
        #expect(destination.remove(0))
        #expect(Holders().userfaults == before.userfaults + 1)
        destination.session.recover(at: source.address)
        source.guestStopped()
        #expect(try destination.end() == nil)
        for guest in guests { guest.release() }
        #expect((0..<Self.pages).allSatisfy { guests[1].words.isRight($0) })
        source.stop()
    }

    /// A daemon takes over and gets the memory that is left: the pages of the other region are neither waited for nor fetched.
    @Test(arguments: [GuestKind.shared, .anonymous]) func aTakeoverWithoutTheRegion(_ kind: GuestKind) throws {
        let guest = try Guest(kind, pages: Self.pages)
        let gone = DestinationRegion.removed(name: "gone", lengthBytes: Self.pages * 4096, pageSize: .fourKiB)
        let regions = try DestinationRegions([gone, try guest.handOver()])
        let path = "/tmp/pf-session-test.\(getpid()).record"
        defer { unlink(path) }
        let record = try ResidentRecord.create(path: path, layout: regions.layout)
        // Of the other region nothing is missing.
        record.insert(Self.pages..<(2 * Self.pages))
        var configuration = DestinationSession.Configuration()
        configuration.takeover = DestinationSession.Takeover(record: record, standing: nil)
        configuration.farewellNanoseconds = 1
        let notices = Mailbox<DestinationNotice>()
        let opened = OpenedDestination.takingOver(
            SessionTicket(SourceHandshake.newSession()), layout: regions.layout,
            address: .unix(path: socketPath("nobody")), configuration: DestinationConnector.Configuration())
        let session = DestinationSession(opened, regions: regions, machineState: nil, configuration: configuration) { notices.post($0) }
        let deadline = MonotonicClock.nowNanoseconds() + 60_000_000_000
        var isOver = false
        while !isOver, let notice = notices.next(deadlineNanoseconds: deadline) {
            if case .ended(let reason) = notice {
                #expect(reason == nil)
                isOver = true
            }
        }
        #expect(isOver, "the pages of the region that was taken out count as given up")
        session.end(.cancelled)
        session.join()
        #expect(record.pages().setCount == 2 * Self.pages)
    }
}
