import Foundation
import Glibc
import Handoff
import HostMemory
import NativeHandoff
import TestSupport
import Testing
import Userfault

/// The units of Packaging/systemd under a real systemd, which is PID 1 of namespaces of the test's own.
@Suite(.leavesNothing, .serialized, .enabled(if: Services.areHere && (try? UserfaultDescriptor.supportedFeatures()) != nil))
struct ServiceTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// The daemon's process, once it is another than `other`.
    private func daemon(_ text: String, other: pid_t = 0) throws -> pid_t {
        var found: pid_t?
        _ = poll(until: {
            found = Scratch.processes(naming: text).first { $0 != other }
            return found != nil
        })
        return try #require(found, "a daemon with \(text) runs")
    }

    /// The process whose memory it is never connects again: systemd's store alone carries it from daemon to daemon. A region that it
    /// has taken out while there was no daemon is let go by the next one, and by the store.
    @Test func systemdKeepsTheMemoryOfADaemonThatDies() throws {
        let bytes = 4 << 20
        let name = String(scratch.path.split(separator: ".").last ?? "t")
        let port = try Services.freePort()
        let services = try Services(
            scratch, instance: name,
            [
                "pageferry-source@":
                    "--memory \(try scratch.memoryFile(bytes: bytes)) --memory \(try scratch.memoryFile("plugged", bytes: bytes)) --listen 127.0.0.1:\(port)",
                "pageferry-destination@": "--connect 127.0.0.1:\(port) --no-push",
            ])
        let handoff = scratch.file("run/pageferry-\(name)/handoff")
        // It starts over until its source is there, and each time anew listens before it looks for it.
        #expect(
            services.property("StatusText", of: "pageferry-destination@\(name)") { $0.contains("waiting for memory") }, "\(services.output)"
        )

        let file = try MemoryFile.create(name: "kept", lengthBytes: bytes)
        let mapping = try MappedMemory(of: file, lengthBytes: bytes, access: .readWrite)
        let plugged = try MappedMemory(anonymousBytes: bytes)
        var client = try HandoffClient(path: handoff, timeoutNanoseconds: 60 * seconds)
        let userfault = try client.handOver(name: "memory", memory: mapping, file: file)
        defer { try? userfault.unregister(address: mapping.address, lengthBytes: bytes) }
        let other = try client.handOver(name: "plugged", anonymous: plugged)
        defer { try? other.unregister(address: plugged.address, lengthBytes: bytes) }
        try client.ready()
        let base = UnsafePointer<UInt8>(bitPattern: mapping.address)!
        func expectPage(_ page: Int) {
            let index = page * 4096 + page % 4096
            #expect(base[index] == UInt8(truncatingIfNeeded: index &* 31 &+ index >> 12), "page \(page)")
        }
        expectPage(1)
        // The connection is kept last.
        #expect(services.property("NFileDescriptorStore", of: "pageferry-destination@\(name)", becomes: "4"))
        #expect(services.property("StatusText", of: "pageferry-destination@\(name)") { $0.contains("demanded") })

        let (destination, source) = ("/run/pageferry-\(name)/handoff", "/var/lib/pageferry-source-\(name)")
        for round in 1...3 {
            let (old, oldSource) = (try daemon(destination), try daemon(source))
            if round > 1 { #expect(kill(oldSource, SIGKILL) == 0) }
            #expect(kill(old, SIGKILL) == 0)
            if round == 2 {
                try client.remove(1)
                #expect(services.property("NFileDescriptorStore", of: "pageferry-destination@\(name)", becomes: "3"))
            }
            // The thread waits through the restart where it has to.
            expectPage(10 * round)
            #expect(try daemon(destination, other: old) != old)
            if round > 1 { #expect(try daemon(source, other: oldSource) != oldSource) }
        }
        #expect(try client.waitForEnd(timeoutMilliseconds: 0) == false, "the process never noticed")
        for page in 0..<bytes / 4096 { expectPage(page) }
        #expect(services.property("ActiveState", of: "pageferry-destination@\(name)", becomes: "inactive"))
        #expect(services.property("Result", of: "pageferry-destination@\(name)") == "success")
        #expect(services.property("NFileDescriptorStore", of: "pageferry-destination@\(name)") == "0")
        #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.file("lib/pageferry-\(name)")) == ["lock"], "no state is left")
        withExtendedLifetime(mapping) {}
        withExtendedLifetime(plugged) {}
        withExtendedLifetime(services) {}
    }

    /// A unit whose configuration cannot work says so once, and is not started over and over.
    @Test func aUnitThatCannotWorkIsNotRepeated() throws {
        let services = try Services(
            scratch, instance: "wrong", ["pageferry-source@": "--memory \(scratch.file("absent")) --listen nowhere"])
        #expect(services.property("ActiveState", of: "pageferry-source@wrong", becomes: "failed"), "\(services.output)")
        #expect(services.property("NRestarts", of: "pageferry-source@wrong") == "0")
        #expect(services.property("ExecMainStatus", of: "pageferry-source@wrong") == "66")
    }
}

/// systemd as PID 1 of namespaces, and the units of Packaging/systemd in it. Ends with this value.
final class Services {
    /// Whether such a systemd can run here; prints what is missing.
    static let areHere: Bool = {
        let reason: String? =
            if geteuid() != 0 {
                "namespaces and control groups need root"
            } else if access("/lib/systemd/systemd", X_OK) != 0 || access(Built.pageferry, X_OK) != 0 {
                "there is no /lib/systemd/systemd; run scripts/ensure-packages services"
            } else if !FileManager.default.fileExists(atPath: "/sys/fs/cgroup/systemd") && access("/sys/fs/cgroup/cgroup.procs", W_OK) != 0
            {
                "systemd finds no control groups here that it may use"
            } else {
                nil
            }
        if let reason { print("skipped: the units under systemd; \(reason)") }
        return reason == nil
    }()

    private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    private static let script = root.appending(path: "scripts/with-systemd").path
    private let scratch: Scratch
    private let program: Program

    /// - Parameter arguments: `PAGEFERRY_ARGUMENTS` of each template.
    init(_ scratch: Scratch, instance: String, _ arguments: [String: String]) throws {
        self.scratch = scratch
        for directory in ["run", "lib", "units", "conf"] {
            try FileManager.default.createDirectory(atPath: scratch.file(directory), withIntermediateDirectories: false)
        }
        var required: [String] = []
        for (template, arguments) in arguments {
            // Where things are installed is all that differs; what is built here may lie in a home.
            let unit = try String(contentsOf: Self.root.appending(path: "Packaging/systemd/\(template).service"), encoding: .utf8)
                .replacing("/usr/bin/pageferry", with: Built.pageferry)
                .replacing("/etc/pageferry/%i.conf", with: scratch.file("conf/\(template).conf"))
                .replacing("ProtectHome=yes", with: "ProtectHome=read-only")
            try unit.write(toFile: scratch.file("units/\(template).service"), atomically: false, encoding: .utf8)
            try "PAGEFERRY_ARGUMENTS=\(arguments)\n".write(
                toFile: scratch.file("conf/\(template).conf"), atomically: false, encoding: .utf8)
            required.append("\(template)\(instance).service")
        }
        let target = "[Unit]\nDescription=test\nDefaultDependencies=no\nWants=\(required.joined(separator: " "))\n"
        try target.write(toFile: scratch.file("units/test.target"), atomically: false, encoding: .utf8)
        // What the network's target would wait for does not exist here.
        program = try Program([Self.script, scratch.path, "test.target"], in: scratch)
    }

    deinit {
        program.signal(SIGTERM)
        _ = program.exitCode()
    }

    var output: String { program.errorOutput }

    /// Whether a unit's property takes that value within a minute.
    func property(_ name: String, of unit: String, becomes value: String) -> Bool { property(name, of: unit) { $0 == value } }

    func property(_ name: String, of unit: String, until condition: (String) -> Bool) -> Bool {
        let deadline = ContinuousClock.now + .seconds(60)
        while ContinuousClock.now < deadline {
            if condition(property(name, of: unit)) { return true }
            _ = Glibc.poll(nil, 0, 50)
        }
        return false
    }

    /// What `systemctl show` says of a unit.
    func property(_ name: String, of unit: String) -> String {
        let output = scratch.file("property")
        guard access(scratch.file("process"), F_OK) == 0,
            let show = try? Program(
                [Self.script, "--run", scratch.path, "systemctl", "show", "--value", "--property", name, "\(unit).service"],
                in: scratch, standardOutput: output)
        else { return "" }
        _ = show.exitCode()
        return (fileText(output) ?? "").trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// A port of loopback that nobody listens on at this moment.
    static func freePort() throws -> UInt16 {
        let probe = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { close(probe) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(probe, $0, length) == 0 ? getsockname(probe, $0, &length) : -1
            }
        }
        try #require(status == 0)
        return UInt16(bigEndian: address.sin_port)
    }
}
