import Testing

@testable import PageCore

@Suite struct RegionLayoutTests {
    @Test func lengthsMustBeWholePages() throws {
        #expect(throws: RegionLayoutError.self) { try RegionDescription(name: "ram", lengthBytes: 4097, pageSize: .fourKiB) }
        #expect(throws: RegionLayoutError.self) { try RegionDescription(name: "ram", lengthBytes: 0, pageSize: .fourKiB) }
        #expect(throws: RegionLayoutError.self) { try RegionDescription(name: "ram", lengthBytes: -4096, pageSize: .fourKiB) }
        #expect(throws: RegionLayoutError.self) { try RegionDescription(name: "ram", lengthBytes: 4096, pageSize: .twoMiB) }
        #expect(try RegionDescription(name: "ram", lengthBytes: 4 << 20, pageSize: .twoMiB).pageCount == 2)
    }

    @Test func namesAreBounded() {
        let long = String(repeating: "x", count: 256)
        #expect(throws: RegionLayoutError.nameTooLong(bytes: 256)) {
            try RegionDescription(name: long, lengthBytes: 4096, pageSize: .fourKiB)
        }
    }

    /// A name goes into error texts, each of which is one line.
    @Test func namesArePrintable() throws {
        for name in ["ra\nm", "\u{1B}[2Jram", "ram\0", "\u{7F}"] {
            #expect(throws: RegionLayoutError.unprintableName(name.withoutControls)) {
                try RegionDescription(name: name, lengthBytes: 4096, pageSize: .fourKiB)
            }
            #expect(!name.withoutControls.unicodeScalars.contains { $0.properties.generalCategory == .control })
        }
        _ = try RegionDescription(name: "Speicher Nr. 1 – süß", lengthBytes: 4096, pageSize: .fourKiB)
    }

    @Test func layoutsAreBounded() throws {
        #expect(throws: RegionLayoutError.noRegions) { try RegionLayout([]) }
        let region = try RegionDescription(name: "ram", lengthBytes: 4096, pageSize: .fourKiB)
        #expect(throws: RegionLayoutError.tooManyRegions(count: 257)) {
            try RegionLayout(Array(repeating: region, count: 257))
        }
        let huge = try RegionDescription(name: "ram", lengthBytes: 1 << 56, pageSize: .fourKiB)
        #expect(throws: RegionLayoutError.tooLarge) { try RegionLayout([huge, region]) }
    }

    @Test func rangesAreCheckedAgainstTheirRegion() throws {
        let region = try RegionDescription(name: "ram", lengthBytes: 10 * 4096, pageSize: .fourKiB)
        let layout = try RegionLayout([region])
        #expect(layout.contains(PageRange(region: 0, first: 0, count: 10)))
        #expect(!layout.contains(PageRange(region: 0, first: 1, count: 10)))
        #expect(!layout.contains(PageRange(region: 1, first: 0, count: 1)))
    }

    @Test func rangesOverlapOnlyInOneRegion() {
        let low = PageRange(region: 0, first: 0, count: 4)
        #expect(low.overlaps(PageRange(region: 0, first: 3, count: 1)))
        #expect(!low.overlaps(PageRange(region: 0, first: 4, count: 1)))
        #expect(!low.overlaps(PageRange(region: 1, first: 0, count: 4)))
        #expect(low.clamped(to: 2..<3) == PageRange(region: 0, first: 2, count: 1))
        #expect(low.clamped(to: 9..<12).isEmpty)
    }
}
