import Glibc
import PageCore
import TestSupport
import Testing

@testable import Handoff

/// Before the commit any failure leaves the guest running at the source. What QEMU does by itself is noted where it is seen.
@Suite(.leavesNothing, .enabled(if: qemuCanRun), .serialized) struct QemuFailureTests {
    /// Follows a migration that is to fail, as a daemon would: the error it sees first.
    private func follow(_ source: QemuSource) -> QemuError? {
        do throws(QemuError) {
            _ = try source.waitForStop(deadlineNanoseconds: inSeconds(20))
            try source.waitForCompletion(deadlineNanoseconds: inSeconds(20))
            return nil
        } catch {
            return error
        }
    }

    private func checkRunsOn(_ pair: QemuPair, _ settings: [JSONValue]) throws {
        try pair.source.recoverGuest()
        #expect(try pair.source.status().guest == "running")
        #expect(try pair.settings() == settings)
    }

    private func checkEndedByItself(_ destination: QemuDestination) {
        #expect(destination.waitForEnd(timeoutMilliseconds: 20_000) == 1)
        guard case .ended(status: 1, let lines)? = destination.endError else {
            Issue.record("it did not end with an error")
            return
        }
        #expect(lines.contains("load of migration failed"), "\(lines)")
    }

    /// Cut in the header, in the block list, in the RAM pages that do travel, and in the device state after the stop.
    @Test(arguments: [0, 1, 500, 40_000, 100_000, 200_000])
    func aStreamThatBreaks(_ bytes: Int) throws {
        let pair = try QemuPair()
        let settings = try pair.settings()
        try pair.source.prepare()
        try pair.begin(cutAfterBytes: bytes)
        let error = follow(pair.source)
        guard case .migrationFailed? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        try checkRunsOn(pair, settings)
        checkEndedByItself(pair.destination)
        // And it can be tried again, over the same monitor.
        try pair.replaceDestination()
        try pair.migrate()
        _ = try pair.destination.resume()
    }

    /// QEMU resumes the guest by itself when the stream breaks after the stop.
    @Test func qemuResumesTheSourceByItself() throws {
        let pair = try QemuPair()
        try pair.source.prepare()
        try pair.begin(cutAfterBytes: 200_000)
        _ = follow(pair.source)
        #expect(poll(until: { (try? pair.source.status()) == QemuStatus(guest: "running", migration: "failed") }))
    }

    @Test func aCompletedMigrationIsTakenBack() throws {
        let pair = try QemuPair()
        let settings = try pair.settings()
        try pair.migrate()
        pair.destination.kill()
        #expect(try pair.source.status() == QemuStatus(guest: "postmigrate", migration: "completed"))
        try checkRunsOn(pair, settings)
    }

    @Test func aDestinationThatDiesBeforeItHasLoaded() throws {
        let pair = try QemuPair()
        let settings = try pair.settings()
        try pair.source.prepare()
        let incoming = try pair.destination.beginIncoming()
        let outgoing = try pair.source.beginMigration()
        pair.destination.kill()
        #expect(pair.destination.waitForEnd(timeoutMilliseconds: 0) != nil)
        let relay = StreamRelay(source: outgoing, destination: incoming)
        guard case .migrationFailed? = follow(pair.source) else {
            Issue.record("the source did not see it")
            return
        }
        try checkRunsOn(pair, settings)
        #expect(relay.waitForEnd())
    }

    @Test func cancelling() throws {
        let pair = try QemuPair()
        let settings = try pair.settings()
        try pair.source.prepare()
        try pair.slowDown()
        let drain = StreamDrain(try pair.source.beginMigration())
        #expect(poll(until: { (try? pair.source.status().migration) == "active" }))
        try pair.source.cancel()
        guard case .migrationFailed(let text)? = follow(pair.source) else {
            Issue.record("the cancellation was not seen")
            return
        }
        #expect(text.contains("cancelled"))
        try checkRunsOn(pair, settings)
        #expect(drain.waitForEnd())
    }

    /// A return path that says nothing: the source waits in finish-migrate, its guest stopped, until it is given up.
    @Test func aDestinationThatNeverAnswers() throws {
        let pair = try QemuPair()
        let settings = try pair.settings()
        try pair.source.prepare()
        let outgoing = try pair.source.beginMigration()
        let drain = StreamDrain(outgoing)
        _ = try pair.source.waitForStop(deadlineNanoseconds: inSeconds(20))
        #expect(throws: QemuError.timedOut(waitingFor: "the destination to load the machine state")) {
            try pair.source.waitForCompletion(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 100_000_000)
        }
        #expect(try pair.source.status() == QemuStatus(guest: "finish-migrate", migration: "active"))
        try checkRunsOn(pair, settings)
        #expect(drain.waitForEnd())
    }

    /// QEMU's monitor is dead as long as nobody reads the device state: the stream is closed first.
    @Test func aStreamThatNobodyReads() throws {
        let pair = try QemuPair()
        let settings = try pair.settings()
        try pair.source.prepare()
        let outgoing = try pair.source.beginMigration()
        #expect(poll(until: { (try? pair.source.status(timeoutNanoseconds: 50_000_000)) == nil }))
        #expect(throws: QemuError.guestNotRecovered(status: "unknown, it does not answer")) {
            try pair.source.recoverGuest(timeoutNanoseconds: 600_000_000)
        }
        close(outgoing)
        try checkRunsOn(pair, settings)
    }

    @Test func aDestinationOfAnotherShape() throws {
        let pair = try QemuPair(sourceOptions: ["-device", "virtio-rng-pci"])
        let settings = try pair.settings()
        try pair.source.prepare()
        try pair.begin()
        guard case .migrationFailed? = follow(pair.source) else {
            Issue.record("the source did not see it")
            return
        }
        let error = #expect(throws: QemuError.self) {
            try pair.destination.waitForLoaded(deadlineNanoseconds: inSeconds(20))
        }
        #expect(error?.description.contains("virtio-rng") == true, "\(String(describing: error))")
        try checkRunsOn(pair, settings)
    }

    @Test func whatStopsTheDestinationAtItsStart() throws {
        let scratch = QemuScratch()
        let backend = ["-object", scratch.fileBackend()]
        let failing = try QemuDestination(
            QemuCommandLine(["/bin/sh", "-c", "echo first >&2; echo 'no such machine' >&2; exit 3"] + backend),
            preloadLibrary: nil, handoffPath: "")
        #expect(throws: QemuError.ended(status: 3, lastLines: "first; no such machine")) {
            try failing.connect(timeoutNanoseconds: 20 * seconds)
        }
        // The connection was given up once, and not closed a second time: this number may be another's by now.
        #expect(throws: QemuError.connectionLost) { try failing.connect(timeoutNanoseconds: seconds) }
        let silent = try QemuDestination(
            QemuCommandLine(["/bin/sh", "-c", "exec sleep 1000"] + backend), preloadLibrary: nil, handoffPath: "")
        #expect(throws: QemuError.busy(path: "the new QEMU")) { try silent.connect(timeoutNanoseconds: 50_000_000) }
        silent.kill()
        #expect(silent.waitForEnd(timeoutMilliseconds: 0) != nil)
        #expect(throws: QemuError.cannotStart(program: "/no/such/qemu", code: ENOENT)) {
            try QemuDestination(QemuCommandLine(["/no/such/qemu"] + backend), preloadLibrary: nil, handoffPath: "")
        }
        for path in ["/no/such/library.so", "/tmp/with a space.so"] {
            #expect(throws: QemuError.unusablePreload(path: path)) {
                try QemuDestination(QemuCommandLine(["/bin/true"] + backend), preloadLibrary: path, handoffPath: "")
            }
        }
    }

    @Test func theNewProcessIsItsOwn() throws {
        let scratch = QemuScratch()
        let destination = try RunningDestination(RunningQemu.arguments([scratch.fileBackend()]))
        #expect(getsid(destination.qemu.process) == destination.qemu.process)
        var entry = pollfd(fd: destination.qemu.processDescriptor, events: Int16(POLLIN), revents: 0)
        #expect(Glibc.poll(&entry, 1, 0) == 0)
        destination.qemu.kill()
        #expect(Glibc.poll(&entry, 1, 0) == 1)
        #expect(Glibc.kill(destination.qemu.process, 0) == -1)
    }
}

/// Reads a stream to its end, and closes it.
final class StreamDrain: Sendable {
    private let runner: Runner<Bool>

    init(_ socket: Int32) {
        runner = Runner {
            var piece = [UInt8](repeating: 0, count: 65536)
            while recv(socket, &piece, piece.count, 0) > 0 {}
            close(socket)
            return true
        }
    }

    func waitForEnd() -> Bool { runner.join() == true }
}
