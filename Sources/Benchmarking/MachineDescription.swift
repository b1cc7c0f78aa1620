import Foundation

/// The machine and the build a report was made on.
public struct MachineDescription: Sendable, Codable, Hashable {
    public var kernel: String
    public var processor: String
    public var processorCount: Int
    public var memoryMiB: Int
    /// Whether the build is optimized.
    public var isRelease: Bool

    /// This machine.
    public static var current: MachineDescription {
        MachineDescription(
            kernel: text("/proc/sys/kernel/osrelease"), processor: processorName,
            processorCount: ProcessInfo.processInfo.activeProcessorCount,
            memoryMiB: Int(ProcessInfo.processInfo.physicalMemory >> 20), isRelease: isOptimized)
    }

    private static var isOptimized: Bool {
        #if DEBUG
        false
        #else
        true
        #endif
    }

    private static var processorName: String {
        for line in text("/proc/cpuinfo").split(separator: "\n") where line.hasPrefix("model name") {
            return line.split(separator: ":", maxSplits: 1).last.map { $0.trimmingCharacters(in: .whitespaces) } ?? ""
        }
        return "unknown"
    }

    private static func text(_ path: String) -> String {
        // Foundation's readers stop at the first short read of /proc: read on until the end.
        guard let file = FileHandle(forReadingAtPath: path) else { return "" }
        defer { try? file.close() }
        var data = Data()
        while let piece = try? file.read(upToCount: 65_536), !piece.isEmpty { data.append(piece) }
        return String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    }
}
