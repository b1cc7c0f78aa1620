import Glibc

@testable import Handoff

/// What QEMU says, and what is said of QEMU.
enum QMPTargets {
    static func messages(_ input: [UInt8]) {
        let value: JSONValue
        do throws(QemuError) {
            value = try JSONValue(parsing: input[...])
        } catch {
            require(!error.description.contains("\n"), "a refusal is one line")
            // The monitor's answers are text, not JSON.
            let text = String(decoding: input, as: UTF8.self)
            let map = QemuGuestMap(parsing: text)
            _ = (map.entry(of: "node0"), QemuGuestMap.hostAddress(parsing: text))
            return
        }
        walk(value)
        let encoded = value.encoded
        require(!encoded.contains(UInt8(ascii: "\n")), "a message is one line")
        guard let again = try? JSONValue(parsing: encoded[...]) else { fatalError("broken property: what the encoder writes is accepted") }
        require(again == value, "a value encodes to what it was decoded from")
    }

    /// Every accessor on every value.
    private static func walk(_ value: JSONValue) {
        _ = (value.string, value.integer, value.boolean, value["return"])
        for element in value.array ?? [] { walk(element) }
        if case .object(let members) = value { for member in members.values { walk(member) } }
    }

    /// A whole conversation with a server that says what the input says, and hangs up.
    static func connection(_ input: [UInt8]) {
        let socket = PeerSocket(saying: input)
        do throws(QemuError) {
            let client = try QMPClient(adopting: socket.ours, name: "fuzz")
            _ = try client.execute("query-status")
            _ = try client.nextEvent(named: ["STOP"], deadlineNanoseconds: 0)
            try client.start("migrate")
            while try client.nextEvent(named: ["MIGRATION"], deadlineNanoseconds: .max) != nil {}
        } catch {
            require(!error.description.contains("\n"), "a refusal is one line")
        }
        withExtendedLifetime(socket.ours) {}
    }

    /// A command line, its words separated by zero bytes.
    static func commandLine(_ input: [UInt8]) {
        let words = input.split(separator: 0, omittingEmptySubsequences: false).map { String(decoding: $0, as: UTF8.self) }
        do throws(QemuError) {
            let line = try QemuCommandLine(words)
            require(!line.backendNames.isEmpty && line.backendNames.count == line.memoryPatterns.count, "every backend has a pattern")
            require(line.arguments == words, "the user's words are left as they are")
        } catch {
            require(!error.description.isEmpty, "a refusal says why")
        }
    }

    static var messageSeeds: [[UInt8]] {
        [
            #"{"return": {"status": "running", "n": [1, -2.5e10, true, false, null, "é😀\n"]}, "id": 3}"#, #"{"é": 1, "e\#u{301}": 2}"#,
            #"{"error": {"class": "GenericError", "desc": "no"}}"#, #"[1e308, 9223372036854775807, -0.0, 5e-324]"#,
            "  0000000100000000-000000013fffffff (prio 0, ram): node0 @00000000c0000000 KVM\n",
            "Host virtual address for 0x0 (node0) is 0x7f32ebe00000",
        ].map { Array($0.utf8) }
    }

    static var connectionSeeds: [[UInt8]] {
        let greeting = #"{"QMP": {"version": {}, "capabilities": []}}"# + "\n" + #"{"return": {}, "id": 1}"# + "\n"
        return [
            greeting + #"{"event": "STOP", "data": {}}"# + "\r\n" + #"{"return": {"status": "running"}, "id": 2}"# + "\n"
                + #"{"return": {}, "id": 3}"# + "\n" + #"{"event": "MIGRATION", "data": {"status": "active"}}"# + "\n",
            greeting + #"{"error": {"desc": "no"}, "id": 2}"# + "\n",
        ].map { Array($0.utf8) }
    }

    static var commandLineSeeds: [[UInt8]] {
        [
            ["qemu", "-object", "memory-backend-file,id=ram,size=1G,share=on,mem-path=/dev/shm/a", "-overcommit", "mem-lock=off"],
            ["qemu", "-object", #"{"qom-type": "memory-backend-memfd", "id": "ram", "size": 1, "share": true}"#, "--incoming", "defer"],
        ].map { Array($0.joined(separator: "\0").utf8) }
    }
}
