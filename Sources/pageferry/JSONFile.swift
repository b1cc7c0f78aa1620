import Foundation

/// Reports as files for other programs: keys sorted, so that two runs can be compared line by line.
enum JSONFile {
    static func write(_ value: some Encodable, to path: String) throws(CommandFailure) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        do {
            try (encoder.encode(value) + Data("\n".utf8)).write(to: URL(filePath: path), options: .atomic)
        } catch {
            throw CommandFailure("cannot write \(path): \(error.localizedDescription)", .cannotCreate)
        }
    }
}

/// Where this program and what comes with it lie.
enum Executable {
    /// This very program.
    static var path: String { (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0] }

    /// A file installed beside the program, in ../lib/pageferry or in the same directory; nil when there is none.
    static func companion(_ name: String) -> String? {
        let directory = URL(filePath: path).deletingLastPathComponent()
        return [directory.appending(path: name), directory.appending(path: "../lib/pageferry/\(name)")]
            .map { $0.standardizedFileURL.path }
            .first { FileManager.default.fileExists(atPath: $0) }
    }
}
