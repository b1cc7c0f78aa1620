import Foundation
import PageCore
import PageWire

/// A trace from a file, and the memory it is of.
struct RecordedTrace {
    let name: String
    let trace: PageTrace
    let layout: RegionLayout
    /// Its pages, in order.
    let touches: [Int]

    /// The traces of a directory by name; none without a directory.
    static func all(in path: String?) throws(BenchmarkError) -> [RecordedTrace] {
        guard let path else { return [] }
        return try orBenchmarkError {
            try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasSuffix(".trace") }.sorted().map {
                try RecordedTrace(path: "\(path)/\($0)")
            }
        }
    }

    private init(path: String) throws {
        name = URL(filePath: path).deletingPathExtension().lastPathComponent
        let file = try FileHandle(forReadingFrom: URL(filePath: path))
        do throws(TraceError) {
            trace = try PageTrace(decoding: Array((try? file.read(upToCount: PageTrace.mostBytes + 1)) ?? Data()))
        } catch {
            throw BenchmarkError("\(path): \(error)")
        }
        layout = try RegionLayout(
            trace.regions.enumerated().map {
                try RegionDescription(
                    name: "region\($0.offset)", lengthBytes: $0.element.pageCount << $0.element.pageSize.shift,
                    pageSize: $0.element.pageSize)
            })
        touches = trace.runs.flatMap { Array($0) }
    }
}
