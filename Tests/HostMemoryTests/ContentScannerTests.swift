import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing

@Suite("Zero scan and content scanner", .leavesNothing)
struct ContentScannerTests {
    @Test("A single byte anywhere is found", arguments: [1, 7, 64, 255, 256, 257, 4096, 5000])
    func zeroScan(count: Int) {
        var bytes = [UInt8](repeating: 0, count: count)
        #expect(isZero(bytes))
        for position in 0..<count {
            bytes[position] = 0x80
            #expect(!isZero(bytes))
            bytes[position] = 0
        }
        #expect(isZero(bytes))
    }

    private func isZero(_ bytes: [UInt8]) -> Bool { bytes.span.bytes.isZero }

    /// Pages of a random file, what each holds, and the scanner's answer, whose every run is checked page by page.
    @Test("Runs are right for random contents, and looking allocates nothing", arguments: 0..<20)
    func randomContents(seed: Int) throws {
        var random = SystemRandomNumberGenerator()
        let pages = 200
        let file = try MemoryFile.create(name: "random-\(seed)", lengthBytes: (pages + 2) * 4096)
        let memory = try MappedMemory(of: file, offset: 8192, lengthBytes: pages * 4096, access: .readWrite)
        var expected: [ContentScanner.Content] = []
        while expected.count < pages {
            let content = [ContentScanner.Content.hole, .zero, .data].randomElement(using: &random)!
            for _ in 0..<min(Int.random(in: 1...12, using: &random), pages - expected.count) {
                let page = expected.count
                if content != .hole {
                    memory.withMutableBytes(page * 4096..<(page + 1) * 4096) {
                        $0.storeBytes(of: content == .data ? 1 : 0, toByteOffset: Int.random(in: 0..<4096), as: UInt8.self)
                    }
                }
                expected.append(content)
            }
        }
        var before = stat()
        #expect(fstat(file.rawValue, &before) == 0)
        var scanner = try ContentScanner(file: file, fileOffset: 8192, pageSize: .fourKiB)
        var found: [ContentScanner.Content] = []
        while found.count < pages {
            let run = try scanner.nextRun(
                from: found.count, count: pages - found.count, mostScanned: 5, file: file, memory: memory)
            #expect(run.first == found.count)
            #expect(run.content == .hole || run.count <= 5)
            found += Array(repeating: run.content, count: run.count)
        }
        #expect(found == expected)
        // Backwards and in jumps: the extent known last must not mislead.
        for page in (0..<pages).shuffled(using: &random) {
            let run = try scanner.nextRun(from: page, count: 1, mostScanned: 1, file: file, memory: memory)
            #expect(run.content == expected[page])
            let hole = try scanner.firstHole(from: page, count: pages - page, file: file)
            let first = expected[page...].firstIndex(of: .hole)
            #expect(hole?.lowerBound == first)
            if let first { #expect(hole?.upperBound == expected[first...].firstIndex { $0 != .hole } ?? pages) }
        }
        var after = stat()
        #expect(fstat(file.rawValue, &after) == 0)
        #expect(after.st_blocks == before.st_blocks)
    }

    @Test("A region page larger than the file's is a hole only as a whole")
    func largerPages() throws {
        let file = try MemoryFile.create(name: "larger", lengthBytes: 8 << 20)
        let memory = try MappedMemory(of: file, lengthBytes: 8 << 20, access: .readWrite)
        memory.withMutableBytes(5 << 20..<6 << 20) { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
        var scanner = try ContentScanner(file: file, pageSize: .twoMiB)
        #expect(
            try scanner.nextRun(from: 0, count: 4, mostScanned: 9, file: file, memory: memory)
                == .init(content: .hole, first: 0, count: 2))
        #expect(
            try scanner.nextRun(from: 2, count: 2, mostScanned: 9, file: file, memory: memory)
                == .init(content: .data, first: 2, count: 1))
        #expect(try scanner.firstHole(from: 2, count: 2, file: file) == 3..<4)
    }
}
