import CShims
import Glibc
import PageCore

/// A running QEMU whose guest is to leave: finds its memory, starts its migration, and brings the guest back when nothing
/// comes of it. For one thread.
public final class QemuSource {
    /// What is set for the migration, and put back when the guest stays.
    private static let capabilities = ["x-ignore-shared", "events", "return-path"]

    private let client: QMPClient
    private var previousCapabilities: [String: Bool] = [:]

    public init(connectingTo path: String) throws(QemuError) {
        client = try QMPClient(connectingTo: path)
    }

    /// The process that runs the guest.
    public var process: pid_t? { client.peerProcess }

    // MARK: Before the migration

    /// Checks that this QEMU can be served, and opens its memory.
    public func inspect() throws(QemuError) -> [QemuMemoryBackend] {
        let status = try client.execute("query-status")["status"]?.string ?? "unknown"
        guard status == "running" else { throw .notRunning(status: status) }
        let migration = try client.execute("query-migrate")["status"]?.string ?? "none"
        guard ["none", "completed", "failed", "cancelled"].contains(migration) else { throw .migrationActive(status: migration) }
        _ = try readCapabilities()
        return try openMemory()
    }

    /// Sets what the migration needs, and remembers what was set before.
    public func prepare() throws(QemuError) {
        previousCapabilities = try readCapabilities()
        try setCapabilities(Dictionary(uniqueKeysWithValues: Self.capabilities.map { ($0, true) }))
        // Nothing but device state is sent, and it must not be throttled while the guest is stopped.
        try client.execute("migrate-set-parameters", ["max-bandwidth": .integer(1 << 40), "downtime-limit": 2_000])
    }

    private func readCapabilities() throws(QemuError) -> [String: Bool] {
        let answer = try client.execute("query-migrate-capabilities").array ?? []
        var found: [String: Bool] = [:]
        for entry in answer {
            if let name = entry["capability"]?.string, let state = entry["state"]?.boolean { found[name] = state }
        }
        for name in Self.capabilities where found[name] == nil { throw .missingCapability(name) }
        return found.filter { Self.capabilities.contains($0.key) }
    }

    private func setCapabilities(_ states: [String: Bool]) throws(QemuError) {
        let list = states.map { JSONValue.object(["capability": .string($0.key), "state": .boolean($0.value)]) }
        try client.execute("migrate-set-capabilities", ["capabilities": .array(list)])
    }

    private func openMemory() throws(QemuError) -> [QemuMemoryBackend] {
        guard let process else { throw .systemCall("reading the peer of the QMP socket", code: errno) }
        let names = try client.execute("query-memdev").array?.compactMap { $0["id"]?.string } ?? []
        guard !names.isEmpty else { throw .noMemoryBackend }
        var taken: Set<String> = []
        var backends: [QemuMemoryBackend] = []
        do throws(QemuError) {
            for name in names.sorted() {
                backends.append(try openBackend(name, process, &taken))
            }
        } catch {
            for backend in backends { close(backend.descriptor) }
            throw error
        }
        return backends
    }

    private func openBackend(_ name: String, _ process: pid_t, _ taken: inout Set<String>) throws(QemuError) -> QemuMemoryBackend {
        // QEMU's own name for RAM without a backend of the user's is "pc.ram" and the like, and it is not below /objects.
        let type: String
        do throws(QemuError) {
            type = try property(name, "type").string ?? "unknown"
        } catch .refused {
            throw .noMemoryBackend
        }
        guard type == "memory-backend-file" || type == "memory-backend-memfd" else {
            if try property(name, "share").boolean != true, name.hasSuffix(".ram") { throw .noMemoryBackend }
            throw .unsupportedBackend(backend: name, type: type)
        }
        guard try property(name, "share").boolean == true else { throw .notShared(backend: name) }
        guard let lengthBytes = try property(name, "size").integer else { throw .malformedMessage }
        let path = type == "memory-backend-file" ? try property(name, "mem-path").string : nil
        return try QemuMemory.open(backend: name, lengthBytes: lengthBytes, path: path, process: process, taken: &taken)
    }

    private func property(_ backend: String, _ name: String) throws(QemuError) -> JSONValue {
        try client.execute("qom-get", ["path": .string("/objects/\(backend)"), "property": .string(name)])
    }

    // MARK: The migration

    /// Starts the migration.
    ///
    /// - Returns: a socket that brings the machine state and takes the return path; the caller closes it.
    public func beginMigration() throws(QemuError) -> Int32 {
        let (ours, theirs) = try QemuSockets.pair()
        do throws(QemuError) {
            try client.execute("getfd", ["fdname": "pageferry-migration"], descriptor: theirs)
            close(theirs)
            try client.execute("migrate", ["uri": "fd:pageferry-migration"])
        } catch {
            close(ours)
            throw error
        }
        return ours
    }

    /// Waits until the guest has stopped: from then on its memory is final.
    ///
    /// - Returns: when, on the monotonic clock.
    public func waitForStop(deadlineNanoseconds: UInt64) throws(QemuError) -> UInt64 {
        let event = try client.nextEvent(named: ["STOP", "MIGRATION"], deadlineNanoseconds: deadlineNanoseconds)
        guard let event else { throw .timedOut(waitingFor: "the guest to stop") }
        if event.name == "STOP" { return event.arrivedNanoseconds }
        let status = event.data["status"]?.string ?? "unknown"
        if status == "failed" || status == "cancelled" { throw .migrationFailed(try failureText(status)) }
        return try waitForStop(deadlineNanoseconds: deadlineNanoseconds)
    }

    /// Waits until the destination's QEMU has loaded the machine state and said so on the return path.
    public func waitForCompletion(deadlineNanoseconds: UInt64) throws(QemuError) {
        while true {
            guard let event = try client.nextEvent(named: ["MIGRATION"], deadlineNanoseconds: deadlineNanoseconds) else {
                throw .timedOut(waitingFor: "the destination to load the machine state")
            }
            switch event.data["status"]?.string ?? "unknown" {
            case "completed": return
            case let status where status == "failed" || status == "cancelled":
                throw .migrationFailed(try failureText(status))
            default: continue
            }
        }
    }

    private func failureText(_ status: String) throws(QemuError) -> String {
        try client.execute("query-migrate")["error-desc"]?.string ?? "its status is '\(status)'"
    }

    /// Makes the guest run here again, whatever state the migration left it in. Only before the switch is committed.
    public func recoverGuest(timeoutNanoseconds: UInt64 = 20_000_000_000) throws(QemuError) {
        let deadline = MonotonicClock.nowNanoseconds() + timeoutNanoseconds
        var status = "unknown"
        while MonotonicClock.nowNanoseconds() < deadline {
            let migration = try client.execute("query-migrate")["status"]?.string ?? "none"
            status = try client.execute("query-status")["status"]?.string ?? "unknown"
            switch migration {
            case "none", "failed", "cancelled", "completed":
                if status == "running" {
                    if !previousCapabilities.isEmpty { try setCapabilities(previousCapabilities) }
                    return
                }
                // Refused while QEMU is still on its way out of the migration: asked again.
                _ = try? client.execute("cont")
            default:
                _ = try? client.execute("migrate_cancel")
            }
            // Either event says that something has changed; the short wait bounds the asking.
            _ = try client.nextEvent(
                named: ["RESUME", "MIGRATION"], deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 20_000_000)
        }
        throw .guestNotRecovered(status: status)
    }

    /// Ends this QEMU. Only when every page is at the destination.
    public func quit() throws(QemuError) {
        try client.execute("quit")
    }
}
