import Glibc
import PageCore
import TestSupport
import Testing

@testable import Handoff

@Suite(.leavesNothing, .enabled(if: qemuCanRun), .serialized) struct QemuMigrationTests {
    /// The return path's message that ends it: be16 type 1 (SHUT), be16 length 4, be32 error 0.
    private static let returnPathEnd: [UInt8] = [0, 1, 0, 4, 0, 0, 0, 0]

    @Test(arguments: [[], ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]])
    func aGuestMovesAndWaitsForTheCommit(_ options: [String]) throws {
        let pair = try QemuPair(options)
        #expect(try pair.destination.status() == QemuStatus(guest: "inmigrate", migration: "none"))
        try pair.source.prepare()
        let begun = MonotonicClock.nowNanoseconds()
        try pair.begin()
        let stopped = try pair.source.waitForStop(deadlineNanoseconds: inSeconds(20))
        #expect(stopped >= begun)
        try pair.destination.waitForLoaded(deadlineNanoseconds: inSeconds(20))
        try pair.source.waitForCompletion(deadlineNanoseconds: inSeconds(20))
        // Stopped on both: nothing but the commit decides where it runs.
        #expect(try pair.source.status() == QemuStatus(guest: "postmigrate", migration: "completed"))
        #expect(try pair.destination.status() == QemuStatus(guest: "paused", migration: "completed"))
        let asked = MonotonicClock.nowNanoseconds()
        let resumed = try pair.destination.resume()
        #expect(resumed >= asked)
        #expect(try pair.destination.status().guest == "running")
        #expect(try pair.source.status().guest == "postmigrate")
        let relay = try #require(pair.relay)
        #expect(relay.waitForEnd())
        #expect(relay.progress.backward.suffix(8) == Self.returnPathEnd[...])
        // The 64 MiB of RAM did not travel.
        #expect(relay.progress.forward < 4 << 20)
        print(
            "machine state \(relay.progress.forward) bytes; begin to stop \((stopped - begun) / 1_000) us, loaded and completed \((asked - stopped) / 1_000) us after it, cont \((resumed - asked) / 1_000) us"
        )
        try pair.source.quit()
        #expect(pair.sourceQemu.child.waitForEnd(timeoutMilliseconds: 20_000) == 0)
        #expect(try pair.destination.status().guest == "running")
        pair.destination.terminate()
        #expect(pair.destination.waitForEnd(timeoutMilliseconds: 20_000) == 0)
    }

    @Test func resumingBeforeTheStateIsLoadedIsRefused() throws {
        let pair = try QemuPair()
        let stream = try pair.destination.beginIncoming()
        defer { close(stream) }
        #expect(throws: QemuError.notLoaded) { try pair.destination.resume() }
        #expect(try pair.destination.status().guest == "inmigrate")
    }

    /// Settings that would hang or spoil a migration of ours are no obstacle, and are back afterwards.
    @Test func settingsArePutAside() throws {
        let pair = try QemuPair()
        for name in ["pause-before-switchover", "multifd", "postcopy-ram"] {
            let change = JSONValue.object(["capability": .string(name), "state": true])
            try pair.source.client.execute("migrate-set-capabilities", ["capabilities": .array([change])])
        }
        try pair.source.client.execute("migrate-set-parameters", ["max-bandwidth": 4096, "downtime-limit": 1])
        let before = try pair.settings()
        try pair.migrate()
        #expect(try pair.settings() != before)
        try pair.source.recoverGuest()
        #expect(try pair.settings() == before)
        #expect(try pair.source.status().guest == "running")
    }

    @Test func onlyOneMigrationAtATime() throws {
        let pair = try QemuPair()
        try pair.source.prepare()
        try pair.slowDown()
        let drain = StreamDrain(try pair.source.beginMigration())
        #expect(poll(until: { (try? pair.source.status().migration) == "active" }))
        #expect(throws: QemuError.migrationActive(status: "active")) { try pair.source.beginMigration() }
        #expect(throws: QemuError.migrationActive(status: "active")) { try pair.source.inspect() }
        try pair.source.recoverGuest()
        #expect(try pair.source.status().guest == "running")
        #expect(drain.waitForEnd())
    }

    /// A stop from before the migration says nothing of it.
    @Test func anOldStopDoesNotCount() throws {
        let server = QMPFakeServer.answering { command in
            switch command {
            case "getfd": ([#"{"event": "STOP"}"#, #"{"event": "RESUME"}"#], "{}")
            case "query-status": ([], #"{"status": "running"}"#)
            default: ([], "{}")
            }
        }
        let source = QemuSource(client: try QMPClient(adopting: server.clientEnd, name: "the fake"))
        close(try source.beginMigration())
        #expect(throws: QemuError.timedOut(waitingFor: "the guest to stop")) {
            try source.waitForStop(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 20_000_000)
        }
    }

    /// QEMU answers `migrate` only when somebody reads the stream, so its refusal comes later.
    @Test func aRefusalIsSeenByTheNextWait() throws {
        let server = QMPFakeServer.greeting { peer in
            while let command = peer.read() {
                switch command["execute"]?.string {
                case "migrate":
                    peer.write(#"{"id": \#(command["id"]?.integer ?? 0), "error": {"desc": "not today"}}"#)
                case "query-status": peer.answer(command, #"{"status": "running"}"#)
                default: peer.answer(command)
                }
            }
        }
        let source = QemuSource(client: try QMPClient(adopting: server.clientEnd, name: "the fake"))
        close(try source.beginMigration())
        #expect(try source.status().guest == "running")
        #expect(throws: QemuError.refused(command: "migrate", text: "not today")) {
            try source.waitForStop(deadlineNanoseconds: inSeconds(20))
        }
        try source.recoverGuest()
    }

    /// Somebody stops the guest while it migrates and lets it run again: its memory may have changed after the stop that
    /// was reported, so it must not be committed.
    @Test func aGuestThatRanMeanwhileIsNotCommitted() throws {
        let pair = try QemuPair()
        try pair.source.prepare()
        try pair.slowDown()
        try pair.begin()
        #expect(poll(until: { (try? pair.source.status().migration) == "active" }))
        try pair.source.client.execute("stop")
        _ = try pair.source.waitForStop(deadlineNanoseconds: inSeconds(20))
        try pair.source.client.execute("cont")
        try pair.speedUp()
        #expect(throws: QemuError.notStopped(status: "running")) {
            try pair.source.waitForCompletion(deadlineNanoseconds: inSeconds(20))
        }
        pair.relay?.cut()
        try pair.source.recoverGuest()
        #expect(try pair.source.status().guest == "running")
    }

    @Test func aGuestPausedMeanwhileIsCommitted() throws {
        let pair = try QemuPair()
        try pair.source.prepare()
        try pair.slowDown()
        try pair.begin()
        #expect(poll(until: { (try? pair.source.status().migration) == "active" }))
        try pair.source.client.execute("stop")
        _ = try pair.source.waitForStop(deadlineNanoseconds: inSeconds(20))
        try pair.speedUp()
        try pair.destination.waitForLoaded(deadlineNanoseconds: inSeconds(20))
        try pair.source.waitForCompletion(deadlineNanoseconds: inSeconds(20))
        #expect(try pair.destination.status().guest == "paused")
        _ = try pair.destination.resume()
        #expect(try pair.destination.status().guest == "running")
    }
}
