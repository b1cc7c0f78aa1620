import Foundation
import Testing

/// What SPECIFICATION.md promises is tested by what it names.
@Suite struct SpecificationTests {
    /// Every test of the tree as "Suite.function".
    private static func tests() throws -> Set<String> {
        var found: Set<String> = []
        for file in try SourceTreeTests.files(under: "Tests", suffixes: ["swift"]) {
            var suite = ""
            var isTest = false
            for line in file.lines {
                let words = line.split(whereSeparator: { !$0.isLetter && !$0.isNumber && $0 != "_" && $0 != "@" })
                if let index = words.firstIndex(where: { $0 == "struct" || $0 == "extension" }), index + 1 < words.count,
                    words[index + 1].hasSuffix("Tests"), line.contains("{"), line.prefix(while: { $0 == " " }).count <= 4,
                    !line.contains("func ")
                {
                    suite = String(words[index + 1])
                }
                if words.contains("@Test") { isTest = true }
                if isTest, let index = words.firstIndex(of: "func"), index + 1 < words.count {
                    found.insert("\(suite).\(words[index + 1])")
                    isTest = false
                }
            }
        }
        return found
    }

    /// What stands between backticks and looks like a test's name.
    private static func named(in text: String) -> [String] {
        text.split(separator: "`", omittingEmptySubsequences: false).enumerated().compactMap { index, piece in
            let parts = piece.split(separator: ".", omittingEmptySubsequences: false)
            guard index % 2 == 1, parts.count == 2, parts[0].hasSuffix("Tests"), parts[1].first?.isLowercase == true else { return nil }
            return String(piece)
        }
    }

    @Test func everyNamedTestExists() throws {
        let text = try String(contentsOf: SourceTreeTests.root.appending(path: "SPECIFICATION.md"), encoding: .utf8)
        let tests = try Self.tests()
        let names = Self.named(in: text)
        #expect(names.count > 80, "SPECIFICATION.md names \(names.count) tests")
        for name in names {
            let exists = tests.contains(name)
            #expect(exists, "SPECIFICATION.md names \(name), and there is no such test")
        }
    }

    /// A row without a test is no specification.
    @Test func everyPromiseNamesATest() throws {
        let text = try String(contentsOf: SourceTreeTests.root.appending(path: "SPECIFICATION.md"), encoding: .utf8)
        let rows = text.split(separator: "\n").filter { $0.hasPrefix("|") && !$0.hasPrefix("|---") && !$0.hasPrefix("| promise") }
        #expect(rows.count > 40)
        for row in rows { #expect(!Self.named(in: String(row)).isEmpty, "no test enforces: \(row)") }
    }
}
