import PageCore
import Testing

@testable import PageWire

@Suite struct PageTraceTests {
    private let regions = [PageTrace.Region(pageSize: .fourKiB, pageCount: 1000), .init(pageSize: .twoMiB, pageCount: 24)]

    private func randomTrace(_ seed: UInt64) -> PageTrace {
        var random = SeededRandom(seed: seed)
        let runs = (0..<random.next(below: 200)).map { _ in
            let first = random.next(below: 1024)
            return first..<(first + 1 + random.next(below: min(40, 1024 - first)))
        }
        return PageTrace(regions: regions, runs: runs, isTruncated: random.chance(percent: 20))
    }

    @Test(arguments: 0..<200) func tracesSurviveTheFile(seed: UInt64) throws {
        let trace = randomTrace(seed)
        #expect(try PageTrace(decoding: trace.encoded()) == trace)
    }

    @Test func whatFollowsInOrderCostsNothing() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 1 << 30, pageSize: .fourKiB)])
        var recorder = TraceRecorder(layout: layout)
        for page in 0..<layout.totalPages { recorder.record(page..<(page + 1)) }
        let bytes = recorder.finish()
        #expect(bytes.count < 40)
        let trace = try PageTrace(decoding: bytes)
        #expect(trace.runs == [0..<layout.totalPages])
        #expect(trace.fits(layout) && !trace.isTruncated)
        #expect(trace.pageCount == layout.totalPages)
    }

    @Test func scatteredPagesCostAFewBytesEach() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 512 << 20, pageSize: .fourKiB)])
        var recorder = TraceRecorder(layout: layout)
        var random = SeededRandom(seed: 1)
        for _ in 0..<10_000 {
            let page = random.next(below: layout.totalPages)
            recorder.record(page..<(page + 1))
        }
        #expect(recorder.finish().count <= 3 * 10_000 + 64)
    }

    @Test func aFullRecorderSaysSo() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 4 << 20, pageSize: .fourKiB)])
        var recorder = TraceRecorder(layout: layout, mostBytes: 64)
        for page in stride(from: 0, to: 1000, by: 2) { recorder.record(page..<(page + 1)) }
        let trace = try PageTrace(decoding: recorder.finish())
        #expect(trace.isTruncated)
        #expect(trace.runs.count > 10 && trace.runs.count < 64)
        #expect(trace.runs == (0..<trace.runs.count).map { (2 * $0)..<(2 * $0 + 1) }, "what is there is right")
    }

    @Test func memoryOfAnotherShapeDoesNotFit() throws {
        let layout = try RegionLayout([RegionDescription(name: "ram", lengthBytes: 1000 << 12, pageSize: .fourKiB)])
        #expect(!PageTrace(regions: regions, runs: []).fits(layout))
        #expect(PageTrace(regions: [regions[0]], runs: []).fits(layout))
    }

    // MARK: Hostile files

    @Test func everyCutIsNoticed() {
        let bytes = randomTrace(7).encoded()
        for length in 0..<bytes.count {
            #expect(throws: TraceError.self) { try PageTrace(decoding: Array(bytes[..<length])) }
        }
        #expect(throws: TraceError.self) { try PageTrace(decoding: bytes + [0]) }
    }

    @Test func everyFlippedBitIsNoticed() {
        let bytes = randomTrace(8).encoded()
        for offset in bytes.indices {
            for bit in 0..<8 {
                var damaged = bytes
                damaged[offset] ^= 1 << UInt8(bit)
                #expect(throws: TraceError.self) { try PageTrace(decoding: damaged) }
            }
        }
    }

    /// Wherever the checksum is right, the content may still be anything: an answer is a trace inside its memory, or an error.
    @Test(arguments: 0..<40) func forgedFilesEndInAnErrorOrATrace(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let honest = randomTrace(seed).encoded()
        var traces = 0
        for _ in 0..<500 {
            var body = Array(honest.dropLast(PageTrace.checksumBytes))
            for _ in 0..<(1 + random.next(below: 4)) {
                let offset = random.next(below: body.count)
                body[offset] = random.chance(percent: 50) ? 0xFF : UInt8(truncatingIfNeeded: random.next())
            }
            do throws(TraceError) {
                let trace = try PageTrace(decoding: Self.sealed(body))
                #expect(trace.runs.allSatisfy { !$0.isEmpty && $0.lowerBound >= 0 && $0.upperBound <= trace.totalPages })
                #expect(trace.totalPages << 12 <= RegionLayout.mostBytes)
                traces += 1
            } catch {
                #expect(!error.description.isEmpty)
            }
        }
        #expect(traces < 500)
    }

    @Test func boundsAreChecked() {
        var head = PageTrace.magic + [1, 0, 0, 0, 1, 0, 0, 0, 12]
        head += [10, 0, 0, 0, 0, 0, 0, 0]
        func error(_ runs: [UInt8]) -> TraceError? {
            do throws(TraceError) {
                _ = try PageTrace(decoding: Self.sealed(head + runs))
                return nil
            } catch {
                return error
            }
        }
        // Pages 0 to 9, exactly.
        #expect(error([0x01, 8]) == nil)
        #expect(error([0x01, 9]) == .outsideRegions)
        // One page in front of the first, or behind the last.
        #expect(error([0x02]) == .outsideRegions)
        #expect(error([0x01, 8, 0x00]) == .outsideRegions)
        // A number that never ends, or ends with the file.
        #expect(error([UInt8](repeating: 0xFF, count: 12)) == .outsideRegions)
        #expect(error([0x80]) == .truncatedFile)
        #expect(error([0x01]) == .truncatedFile)
        // Regions: none, too many, of no page size, without pages, larger than an address space.
        for (offset, value, expected) in [
            (12, 0, .badRegions), (13, 2, .badRegions), (16, 13, .badRegions), (17, 0, .badRegions), (24, 1, .badRegions),
            (23, 0xFF, .badRegions), (8, 2, .unknownVersion(2)), (0, 0, .notATrace),
        ] as [(Int, UInt8, TraceError)] {
            var damaged = head
            damaged[offset] = value
            #expect(throws: expected) { try PageTrace(decoding: Self.sealed(damaged)) }
        }
        #expect(throws: TraceError.tooLong(bytes: PageTrace.mostBytes + 1)) {
            try PageTrace(decoding: [UInt8](repeating: 0, count: PageTrace.mostBytes + 1))
        }
    }

    private static func sealed(_ body: [UInt8]) -> [UInt8] {
        let checksum = CRC32.checksum(of: body[...])
        return body + (0..<4).map { UInt8(truncatingIfNeeded: checksum >> UInt32(8 * $0)) }
    }

    /// The check value of the CRC catalogues.
    @Test func theChecksumIsThatOfEveryoneElse() {
        #expect(CRC32.checksum(of: Array("123456789".utf8)[...]) == 0xCBF4_3926)
    }
}
