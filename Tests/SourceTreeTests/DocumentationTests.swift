import Foundation
import Testing

/// What the articles of the catalogue show is what the examples are, which are built and run.
@Suite struct DocumentationTests {
    private static let catalogue = "Sources/PageFerry/PageFerry.docc"

    private static func text(_ path: String) throws -> String {
        try String(contentsOf: SourceTreeTests.root.appending(path: path), encoding: .utf8)
    }

    @Test(arguments: [("ServingFaults", "fault-handler"), ("APageSource", "page-source")])
    func articlesShowTheExamples(_ article: String, _ example: String) throws {
        let text = try Self.text("\(Self.catalogue)/\(article).md")
        let program = try Self.text("Examples/swift-\(example)/Sources/\(example)/main.swift")
        #expect(text.contains("Examples/swift-\(example)"))
        let blocks = text.components(separatedBy: "```swift\n").dropFirst().map { $0.components(separatedBy: "```")[0] }
        #expect(blocks.count >= 3)
        for block in blocks { #expect(program.contains(block), "not in the example:\n\(block)") }
    }

    /// As the article's title says.
    @Test func aFaultHandlerHasThirtyLines() throws {
        let program = try Self.text("Examples/swift-fault-handler/Sources/fault-handler/main.swift")
        let code = program.split(separator: "\n").filter { !$0.trimmingCharacters(in: .whitespaces).hasPrefix("//") }
        #expect(code.count <= 30)
    }
}
