import Glibc
import PageCore

extension QemuSource {
    /// What a migration of ours needs.
    private static let wanted = ["x-ignore-shared", "events", "return-path"]
    /// What would change the stream, need a second channel, or wait for a command before the end.
    private static let unwanted = [
        "pause-before-switchover", "postcopy-preempt", "postcopy-ram", "multifd", "x-colo", "background-snapshot", "block",
        "compress", "xbzrle", "dirty-bitmaps", "zero-copy-send", "switchover-ack",
    ]
    /// Nothing but device state is sent, and it must not be throttled while the guest is stopped; nor does a socket of
    /// ours speak TLS.
    private static let parameters: [String: JSONValue] = [
        "max-bandwidth": .integer(1 << 40), "downtime-limit": 2_000, "tls-creds": "",
    ]

    /// Sets what the migration needs, and remembers what was set before; `recoverGuest` puts it back.
    public func prepare() throws(QemuError) {
        try requireRunning()
        let capabilities = try readCapabilities()
        let given = try client.execute("query-migrate-parameters")
        var changes: [String: Bool] = [:]
        for name in Self.wanted where capabilities[name] == false { changes[name] = true }
        for name in Self.unwanted where capabilities[name] == true { changes[name] = false }
        try setCapabilities(changes)
        previousCapabilities.merge(changes.mapValues { !$0 }) { first, _ in first }
        var parameters: [String: JSONValue] = [:]
        for (name, value) in Self.parameters {
            guard let before = given[name], before != value else { continue }
            parameters[name] = value
            if previousParameters[name] == nil { previousParameters[name] = before }
        }
        try setParameters(parameters)
    }

    /// Puts back what `prepare` changed. Failures are let go: the guest runs, and that matters more.
    func restoreSettings() {
        if (try? setCapabilities(previousCapabilities)) != nil { previousCapabilities = [:] }
        if (try? setParameters(previousParameters)) != nil { previousParameters = [:] }
    }

    func readCapabilities() throws(QemuError) -> [String: Bool] {
        var found: [String: Bool] = [:]
        for entry in try client.execute("query-migrate-capabilities").array ?? [] {
            if let name = entry["capability"]?.string, let state = entry["state"]?.boolean { found[name] = state }
        }
        for name in Self.wanted where found[name] == nil { throw .missingCapability(name) }
        return found
    }

    private func setCapabilities(_ states: [String: Bool]) throws(QemuError) {
        guard !states.isEmpty else { return }
        let list = states.map { JSONValue.object(["capability": .string($0.key), "state": .boolean($0.value)]) }
        try client.execute("migrate-set-capabilities", ["capabilities": .array(list)])
    }

    private func setParameters(_ parameters: [String: JSONValue]) throws(QemuError) {
        guard !parameters.isEmpty else { return }
        try client.execute("migrate-set-parameters", parameters)
    }

    // MARK: Giving up

    /// Makes the guest run here again, whatever state the migration left it in. Only before the switch is committed.
    ///
    /// The stream's socket is closed, or somebody still reads it: QEMU does not answer while it cannot write it.
    public func recoverGuest(timeoutNanoseconds: UInt64 = 20_000_000_000) throws(QemuError) {
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        var guest = "unknown"
        while MonotonicClock.nowNanoseconds() < deadline {
            guard let status = try answering({ () throws(QemuError) in try status(timeoutNanoseconds: Self.answerNanoseconds) })
            else {
                guest = "unknown, it does not answer"
                continue
            }
            guest = status.guest
            switch status.migration {
            case "none", "failed", "cancelled", "completed":
                if guest == "running" {
                    restoreSettings()
                    return
                }
                try tryOnce("cont")
            default:
                try tryOnce("migrate_cancel")
            }
            // Either event says that something has changed; the short wait bounds the asking.
            do throws(QemuError) {
                _ = try client.nextEvent(
                    named: ["RESUME", "MIGRATION"], deadlineNanoseconds: MonotonicClock.nowNanoseconds() &+ 20_000_000)
            } catch .refused {
                // The migration was refused: it has changed nothing.
            }
        }
        throw .guestNotRecovered(status: guest)
    }

    /// Resumes a guest that is stopped here, without looking at the migration. Only before the switch is committed.
    public func resumeGuest() throws(QemuError) {
        try client.execute("cont")
    }

    /// How long QEMU may be silent before it is asked again.
    private static let answerNanoseconds: UInt64 = 500_000_000

    /// QEMU refuses while it is on its way from one state to the next, and is silent while it writes: it is asked again.
    private func tryOnce(_ command: String) throws(QemuError) {
        _ = try answering { () throws(QemuError) in
            do throws(QemuError) {
                try client.execute(command, timeoutNanoseconds: Self.answerNanoseconds)
            } catch .refused {}
        }
    }

    /// - Returns: nil when no answer came in time.
    private func answering<Value>(_ body: () throws(QemuError) -> Value) throws(QemuError) -> Value? {
        do throws(QemuError) {
            return try body()
        } catch .timedOut {
            return nil
        }
    }
}
