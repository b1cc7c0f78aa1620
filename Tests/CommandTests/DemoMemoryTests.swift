import Foundation
import Glibc
import TestSupport
import Testing

/// The memory demonstration with its sides apart, as on two hosts.
@Suite(.leavesNothing, .serialized) struct DemoMemoryTests {
    private let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private struct Report: Decodable {
        var kind: String
        var verifiedPages: Int
        var wrongPages: Int
    }

    private func serve(_ size: String) throws -> Program {
        try Program.pageferry(["demo-memory", "--serve", "unix:\(scratch.file("serve"))", "--size", size], in: scratch)
    }

    private func take(_ size: String, _ options: [String] = []) throws -> Program {
        try Program.pageferry(["demo-memory", "--from", "unix:\(scratch.file("serve"))", "--size", size] + options, in: scratch)
    }

    private func images(of source: Program) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: "/dev/shm")) ?? []).filter {
            $0.hasPrefix("pageferry-demo.\(source.process).")
        }
    }

    @Test func oneServesTheOtherTakes() throws {
        let source = try serve("16M")
        #expect(source.says("serving"))
        #expect(images(of: source).count == 1)
        let destination = try take("16M", ["--json", scratch.file("report")])
        #expect(destination.exitCode() == 0, "\(destination.errorOutput)")
        #expect(source.exitCode() == 0, "it ends once every kind of memory is served: \(source.errorOutput)")
        let reports = try JSONDecoder().decode([Report].self, from: Data(contentsOf: URL(filePath: scratch.file("report"))))
        #expect(reports.map(\.kind) == ["shared", "anonymous"])
        for report in reports {
            #expect(report.verifiedPages == 4096)
            #expect(report.wrongPages == 0)
        }
        #expect(images(of: source) == [], "its memory is gone with it")
        scratch.expectNothingLeft()
    }

    /// Threads that wait for pages which never come must not keep the process, nor find its memory unmapped.
    @Test func sourceKilledInTheMiddle() throws {
        let source = try serve("256M")
        defer { for image in images(of: source) { unlink("/dev/shm/\(image)") } }
        #expect(source.says("serving"))
        let destination = try take("256M")
        #expect(source.says("pulls"), "\(source.errorOutput)")
        source.end()
        expectFailure(of: destination, code: 70, says: ["the link was lost"])
    }

    @Test func otherSize() throws {
        let source = try serve("16M")
        #expect(source.says("serving"))
        expectFailure(of: try take("32M"), code: 70, says: ["memory"])
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0)
        #expect(images(of: source) == [])
    }

    @Test(arguments: [
        ["--serve", "127.0.0.1:0", "--from", "127.0.0.1:1"], ["--serve", "127.0.0.1:0", "--json", "report"],
        ["--from", "127.0.0.1:1", "--host", "127.0.0.1"],
    ])
    func optionsThatExcludeEachOther(_ options: [String]) throws {
        try expectRefusal(["demo-memory"] + options, code: 64, says: [options[2]], in: scratch)
    }
}
