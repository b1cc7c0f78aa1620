import CShims
import Foundation
import Glibc
import Synchronization

/// What a child writes to its standard error: passed on to ours as it comes, its last lines kept for an error.
final class ErrorOutput: Sendable {
    private static let mostBytes = 4096
    private static let mostLines = 3

    private struct Tail {
        var bytes: [UInt8] = []
        var hasEnded = false
    }

    private let tail = Mutex(Tail())

    /// - Returns: also the end that the child is to inherit.
    static func start() throws(QemuError) -> (output: ErrorOutput, childEnd: Int32) {
        var pipe: [Int32] = [-1, -1]
        // SAFETY: two local integers, filled during the call.
        guard unsafe pageferry_pipe(&pipe) == 0 else { throw .systemCall("pipe", code: errno) }
        let output = ErrorOutput()
        let source = pipe[0]
        // Ends when the last holder of the other end has closed it; nobody waits for it.
        Thread.detachNewThread { output.run(source) }
        return (output, pipe[1])
    }

    /// The last lines, joined by "; ". The child has ended: what it wrote is on its way, and is waited for a moment.
    var lastLines: String {
        for _ in 0..<200 where !tail.withLock({ $0.hasEnded }) { _ = poll(nil, 0, 1) }
        let text = String(decoding: tail.withLock { $0.bytes }, as: UTF8.self)
        return text.split(whereSeparator: \.isNewline).suffix(Self.mostLines).joined(separator: "; ")
    }

    private func run(_ source: Int32) {
        var piece = [UInt8](repeating: 0, count: Self.mostBytes)
        while true {
            // SAFETY: the array outlives the call, which writes within its count.
            let count = unsafe read(source, &piece, piece.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            Self.write(piece[..<count])
            tail.withLock { tail in
                tail.bytes.append(contentsOf: piece[..<count])
                tail.bytes.removeFirst(max(0, tail.bytes.count - Self.mostBytes))
            }
        }
        close(source)
        tail.withLock { $0.hasEnded = true }
    }

    private static func write(_ bytes: ArraySlice<UInt8>) {
        var rest = bytes
        while !rest.isEmpty {
            // SAFETY: the buffer outlives the call.
            let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return }
            rest.removeFirst(count)
        }
    }
}
