import Testing

@testable import Demonstration

@Suite struct MigrationLinkTests {
    private static let whole = [
        "PAGEFERRY_LINK_SOURCE": "left", "PAGEFERRY_LINK_DESTINATION": "right", "PAGEFERRY_LINK_SOURCE_ADDRESS": "10.1.0.1",
        "PAGEFERRY_LINK_DESTINATION_ADDRESS": "10.1.0.2",
    ]

    @Test func takesBothEndsFromTheEnvironment() throws {
        let link = try MigrationLink.ofEnvironment(Self.whole)
        #expect(link.sourcePrefix == ["ip", "netns", "exec", "left"])
        #expect(link.destinationPrefix == ["ip", "netns", "exec", "right"])
        #expect(link.sourceAddress == "10.1.0.1" && link.destinationAddress == "10.1.0.2")
    }

    @Test(arguments: whole.keys.sorted()) func saysWhatIsMissing(name: String) {
        var environment = Self.whole
        environment[name] = nil
        #expect(throws: DemonstrationError.self) { try MigrationLink.ofEnvironment(environment) }
    }
}
