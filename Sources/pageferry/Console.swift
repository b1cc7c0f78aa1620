import Glibc
import PageCore
import PageEngine
import PageFerry

/// What an operator reads on standard error: lines, and on a terminal one line of progress below them.
enum Console {
    static let isTerminal = isatty(STDERR_FILENO) == 1

    static func info(_ text: String) {
        write((isTerminal ? "\r\u{1B}[K" : "") + "pageferry: \(text)\n")
    }

    static func error(_ text: String) {
        write((isTerminal ? "\r\u{1B}[K" : "") + "pageferry: error: \(text)\n")
    }

    /// Replaces the progress line; nothing happens where nobody watches.
    static func progress(_ text: String) {
        if isTerminal { write("\r\u{1B}[K\(text)") }
    }

    static func clearProgress() {
        if isTerminal { write("\r\u{1B}[K") }
    }

    static func write(_ text: String) {
        let bytes = Array(text.utf8)
        // SAFETY: the array outlives the call.
        _ = unsafe Glibc.write(STDERR_FILENO, bytes, bytes.count)
    }

    /// A session's state as one line.
    static func line(_ statistics: SessionStatistics) -> String {
        let counts = statistics.counts
        let done = statistics.totalPages - statistics.missingPages
        let percent = statistics.totalPages == 0 ? 0 : done * 100 / statistics.totalPages
        return
            "\(statistics.phase.rawValue) \(percent)% · \(counts.demand) demanded · \(counts.window) window · \(counts.push) pushed · \(counts.zero) zero · \(statistics.waitingFaults) waiting"
    }
}
