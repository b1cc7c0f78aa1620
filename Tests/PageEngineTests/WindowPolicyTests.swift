import PageCore
import PageEngine
import Testing

@Suite struct WindowPolicyTests {
    @Test(arguments: [1, 4096, 8192, 12_288, 65_536, 1 << 30]) func aWindowHoldsItsPageAndStaysInItsRegion(windowBytes: Int) throws {
        let layout = try RegionLayout([
            RegionDescription(name: "odd", lengthBytes: 13 << 12, pageSize: .fourKiB),
            RegionDescription(name: "huge", lengthBytes: 3 << 21, pageSize: .twoMiB),
        ])
        let policy = WindowPolicy(windowBytes: windowBytes)
        for region in 0..<RegionIndex(layout.count) {
            for page in 0..<layout[region].pageCount {
                let window = policy.window(around: page, in: region, of: layout)
                #expect(window.contains(page))
                #expect(layout.contains(window))
                #expect(window.count << layout[region].pageSize.shift <= max(windowBytes, layout[region].pageSize.bytes))
                // Two faults in one block ask for the same pages.
                for other in window.first..<window.end {
                    #expect(policy.window(around: other, in: region, of: layout) == window)
                }
            }
        }
    }
}
