import Foundation
import PageWire

/// Traces as files.
enum TraceFile {
    static func write(_ bytes: [UInt8], to path: String) throws(CommandFailure) {
        do {
            try Data(bytes).write(to: URL(filePath: path), options: .atomic)
        } catch {
            throw CommandFailure("cannot write the trace \(path): \(error.localizedDescription)", .cannotCreate)
        }
    }

    /// Reads at most as much as a trace may have, whatever the path names.
    static func read(_ path: String) throws(CommandFailure) -> PageTrace {
        let data: Data
        do {
            let file = try FileHandle(forReadingFrom: URL(filePath: path))
            data = try file.read(upToCount: PageTrace.mostBytes + 1) ?? Data()
        } catch {
            throw CommandFailure("cannot read the trace \(path): \(error.localizedDescription)", .noInput)
        }
        do throws(TraceError) {
            return try PageTrace(decoding: Array(data))
        } catch {
            throw CommandFailure("\(path): \(error.description)", .dataError)
        }
    }
}
