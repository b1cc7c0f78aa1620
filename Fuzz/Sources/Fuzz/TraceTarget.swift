import PageCore

@testable import PageWire

/// Trace files. No fuzzer guesses a checksum, so the file is tried as it is and with the right one.
enum TraceTarget {
    static func run(_ input: [UInt8]) {
        decode(input)
        guard input.count >= PageTrace.headBytes + PageTrace.checksumBytes else { return }
        let body = input.dropLast(PageTrace.checksumBytes)
        let checksum = CRC32.checksum(of: body)
        decode(Array(body) + (0..<4).map { UInt8(truncatingIfNeeded: checksum >> UInt32(8 * $0)) })
    }

    private static func decode(_ bytes: [UInt8]) {
        let trace: PageTrace
        do throws(TraceError) {
            trace = try PageTrace(decoding: bytes)
        } catch {
            require(!error.description.contains("\n"), "a refusal is one line")
            return
        }
        require(
            trace.runs.allSatisfy { !$0.isEmpty && $0.lowerBound >= 0 && $0.upperBound <= trace.totalPages }, "runs lie in their memory")
        require(trace.runs.count <= PageTrace.mostRuns, "runs are bounded")
        _ = trace.pageCount
        // Numbers may be spelled longer than need be, and unknown flags are ignored: the encoder's spelling is the shortest.
        let again = trace.encoded()
        require(again.count <= bytes.count, "no spelling is shorter than the encoder's")
        guard let same = try? PageTrace(decoding: again) else { fatalError("broken property: what the encoder writes is accepted") }
        require(same == trace, "a trace encodes to what it was decoded from")
    }

    static var seeds: [[UInt8]] {
        let regions = [PageTrace.Region(pageSize: .fourKiB, pageCount: 1000), PageTrace.Region(pageSize: .twoMiB, pageCount: 3)]
        return [
            PageTrace(regions: regions, runs: [0..<1, 5..<900, 3..<4, 1000..<1003], isTruncated: true).encoded(),
            PageTrace(regions: [regions[0]], runs: []).encoded(),
        ]
    }
}
