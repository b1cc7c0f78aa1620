import Foundation
import Testing

/// Rules that hold for the whole source tree, checked by reading it.
@Suite struct SourceTreeTests {
    struct SourceFile {
        let module: String
        let path: String
        let lines: [Substring]
    }

    /// Lower modules first; a module imports only modules before it.
    static let order = [
        "CShims", "ServiceManager", "CSeccomp", "Confinement", "PageCore", "PageWire", "PageEngine", "PageTransport", "HostMemory", "Uring",
        "Verbs", "Userfault",
        "StreamTransport", "VerbsTransport", "COpenSSL", "SecureStream", "PageFerry", "NativeHandoff", "FirecrackerHandoff", "Handoff",
        "ProcessMemory", "CPageFerry", "PageFerryLibrary", "PageSimulation", "Demonstration", "Benchmarking", "pageferry",
    ]
    /// Modules that must not pull in Foundation, and what they may import beside our own.
    static let foundationFree = [
        "PageCore", "PageWire", "PageEngine", "PageTransport", "HostMemory", "Uring", "Userfault", "StreamTransport", "PageFerry",
        "ProcessMemory", "PageSimulation",
    ]
    /// Modules that never touch the outside: the state machines and what they are made of.
    static let pure = ["PageWire", "PageEngine", "PageSimulation"]

    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    static func files(under folder: String, suffixes: [String]) throws -> [SourceFile] {
        let base = root.appending(path: folder)
        let enumerator = try #require(FileManager.default.enumerator(at: base, includingPropertiesForKeys: nil))
        var files: [SourceFile] = []
        for case let url as URL in enumerator where suffixes.contains(url.pathExtension) {
            let relative = String(url.path.dropFirst(base.path.count + 1))
            let text = try String(contentsOf: url, encoding: .utf8)
            let module = String(relative.prefix { $0 != "/" })
            files.append(
                SourceFile(
                    module: module, path: "\(folder)/\(relative)", lines: text.split(separator: "\n", omittingEmptySubsequences: false)))
        }
        try #require(!files.isEmpty)
        return files
    }

    static func imports(_ file: SourceFile) -> [String] {
        file.lines.compactMap { line in
            let words = line.split(separator: " ")
            guard let index = words.firstIndex(of: "import"), index <= 1, !line.hasPrefix("//") else { return nil }
            return words.last.map(String.init)
        }
    }

    @Test func importsRunStrictlyDownward() throws {
        for file in try Self.files(under: "Sources", suffixes: ["swift"]) {
            guard let own = Self.order.firstIndex(of: file.module) else { continue }
            for imported in Self.imports(file) {
                guard let other = Self.order.firstIndex(of: imported) else { continue }
                #expect(other < own, "\(file.path) imports \(imported), which is not below \(file.module)")
            }
        }
    }

    @Test func theDataPlaneIsFreeOfFoundation() throws {
        for file in try Self.files(under: "Sources", suffixes: ["swift"]) where Self.foundationFree.contains(file.module) {
            #expect(!Self.imports(file).contains { $0.hasPrefix("Foundation") }, "\(file.path) imports Foundation")
        }
    }

    @Test func theStateMachinesTouchNothingOutside() throws {
        for file in try Self.files(under: "Sources", suffixes: ["swift"]) where Self.pure.contains(file.module) {
            let outside = Self.imports(file).filter { !Self.order.contains($0) && $0 != "Synchronization" }
            #expect(outside.isEmpty, "\(file.path) imports \(outside)")
        }
    }

    @Test func filesFitAReader() throws {
        for folder in ["Sources", "Tests"] {
            for file in try Self.files(under: folder, suffixes: ["swift", "c", "h"]) {
                // One file on purpose: others take it into their trees.
                if file.path.hasSuffix("pageferry-handoff.h") { continue }
                #expect(file.lines.count <= 420, "\(file.path) has \(file.lines.count) lines; split it")
            }
        }
    }

    /// Every island of unsafe pointers says why it is sound.
    @Test func unsafeFilesSayWhyTheyAreSound() throws {
        for file in try Self.files(under: "Sources", suffixes: ["swift"]) {
            let isUnsafe = file.lines.contains { $0.contains("unsafe ") && !$0.contains("//") }
            let saysWhy = file.lines.contains { $0.contains("SAFETY:") }
            #expect(!isUnsafe || saysWhy, "\(file.path) has unsafe expressions and no SAFETY line")
        }
    }

    @Test func nothingSleepsInPlaceOfACondition() throws {
        let naps = ["usleep(", "nanosleep(", "Thread.sleep", "Task.sleep"]
        for folder in ["Sources", "Tests"] {
            for file in try Self.files(under: folder, suffixes: ["swift"]) where !file.path.hasSuffix("SourceTreeTests.swift") {
                // The guest's workload ticks by the clock: that is what it measures.
                if file.module == "GuestWorkload" { continue }
                for (number, line) in file.lines.enumerated() where naps.contains(where: { line.contains($0) }) {
                    Issue.record("\(file.path):\(number + 1) sleeps; wait for a condition with a bound")
                }
            }
        }
    }

    /// Tests that use the host look for what they leave there.
    @Test func integrationTestsLookForWhatTheyLeave() throws {
        let folders = [
            "ServiceManagerTests", "UringTests", "UserfaultTests", "HostMemoryTests", "StreamTransportTests", "VerbsTransportTests",
            "HandoffTests", "ProcessMemoryTests", "PageFerryTests",
            "CommandTests", "LibraryTests",
        ]
        for file in try Self.files(under: "Tests", suffixes: ["swift"]) where folders.contains(file.module) {
            for (number, line) in file.lines.enumerated() where line.contains("@Suite") {
                let attribute = file.lines[number...].prefix(4).joined()
                #expect(attribute.contains(".leavesNothing"), "\(file.path):\(number + 1): write @Suite(.leavesNothing, …), of TestSupport")
            }
        }
    }
}
