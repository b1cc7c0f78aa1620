import TestSupport
import Testing

@testable import Handoff

/// What differs between QEMU's versions, played by a fake one.
@Suite(.leavesNothing) struct QemuVersionTests {
    /// A QEMU with one backend, as far as the inspection asks.
    private func source(
        version: String = #"{"major": 7, "minor": 2, "micro": 0}"#, type: String = "memory-backend-memfd",
        capabilities: [String] = ["x-ignore-shared", "events", "return-path"], memdevs: String = #"[{"id": "ram"}]"#,
        size: String = "67108864"
    ) throws -> QemuSource {
        let server = QMPFakeServer.greeting { peer in
            while let command = peer.read() {
                let value: String
                switch command["execute"]?.string {
                case "query-status": value = #"{"status": "running"}"#
                case "query-version": value = #"{"qemu": \#(version)}"#
                case "query-memdev": value = memdevs
                case "human-monitor-command": value = #""""#
                case "query-migrate-capabilities":
                    value = "[" + capabilities.map { #"{"capability": "\#($0)", "state": false}"# }.joined(separator: ",") + "]"
                case "qom-get":
                    switch command["arguments"]?["property"]?.string {
                    case "type": value = #""\#(type)""#
                    case "share": value = "true"
                    case "size": value = size
                    default: value = #""/nowhere/ram""#
                    }
                default: value = "{}"
                }
                peer.answer(command, value)
            }
        }
        return QemuSource(client: try QMPClient(adopting: server.clientEnd, name: "the fake"))
    }

    private func error(_ source: QemuSource) -> QemuError? {
        do throws(QemuError) {
            _ = try source.inspect()
            return nil
        } catch {
            return error
        }
    }

    /// From 8.1 on the contents of a memfd travel with the machine state, which would write into memory that is not served yet.
    @Test(arguments: [(7, 2, true), (8, 0, true), (8, 1, false), (10, 0, false)])
    func memfdsAreLeftOutUpTo8_0(_ major: Int, _ minor: Int, _ isLeftOut: Bool) throws {
        let found = error(try source(version: #"{"major": \#(major), "minor": \#(minor), "micro": 0}"#))
        let refusal = QemuError.memoryWouldBeSent(backend: "ram", version: QemuVersion(major: major, minor: minor))
        if isLeftOut {
            guard case .cannotOpenMemory? = found else {
                Issue.record("\(String(describing: found))")
                return
            }
        } else {
            #expect(found == refusal)
            #expect(refusal.description.contains("memory-backend-file"))
        }
    }

    @Test func filesAreLeftOutByEveryVersion() throws {
        let found = error(try source(version: #"{"major": 10, "minor": 0, "micro": 0}"#, type: "memory-backend-file"))
        guard case .cannotOpenMemory? = found else {
            Issue.record("\(String(describing: found))")
            return
        }
    }

    @Test func whatIsMissingIsNamed() throws {
        #expect(error(try source(capabilities: ["events", "return-path"])) == .missingCapability("x-ignore-shared"))
        #expect(error(try source(memdevs: "[]")) == .noMemoryBackend)
    }

    @Test(arguments: ["-1", "0", "1e300", #""big""#, "9223372036854775807"])
    func absurdSizesAreRefused(_ size: String) throws {
        #expect(error(try source(size: size)) != nil)
    }

    @Test func versionsAreOrdered() {
        #expect(QemuVersion(major: 7, minor: 2, micro: 22) < QemuVersion(major: 8, minor: 0))
        #expect(QemuVersion(major: 10, minor: 0) > QemuVersion(major: 9, minor: 2))
        #expect("\(QemuVersion(major: 7, minor: 2, micro: 22))" == "7.2.22")
    }
}
