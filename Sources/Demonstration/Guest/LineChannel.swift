import Glibc
import PageCore
import PageFerry
import Synchronization

/// A stream of lines from another process (a guest's serial port, a program's standard error), each stamped with this
/// host's clock the moment it is read, and a way back.
final class LineChannel: Sendable {
    struct Line: Sendable {
        let arrivedNanoseconds: UInt64
        let text: String
    }

    private let ours: Int32
    /// The other process's end; inherited by it, closed here once it runs.
    let theirs: Int32
    private let lines = Mutex<[Line]>([])
    private let remainder = Mutex("")
    private let thread = Mutex<DedicatedThread?>(nil)

    init() throws(DemonstrationError) {
        var pair: [Int32] = [-1, -1]
        // SAFETY: two local integers, filled during the call.
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
            throw DemonstrationError("cannot make a socket pair: error \(errno)")
        }
        ours = pair[0]
        theirs = pair[1]
    }

    deinit { close(ours) }

    /// Starts reading, once the other process has its end.
    func start() {
        close(theirs)
        thread.withLock { thread in
            thread = DedicatedThread(name: "lines") { [self] in read() }
        }
    }

    /// Ends the reading.
    func stop() {
        shutdown(ours, Int32(SHUT_RDWR))
        thread.withLock { $0.take() }?.join()
    }

    func send(_ text: String) {
        let bytes = Array(text.utf8)
        // SAFETY: the array outlives the call.
        _ = unsafe Glibc.send(ours, bytes, bytes.count, Int32(MSG_NOSIGNAL))
    }

    var all: [Line] { lines.withLock { $0 } }

    /// What has come behind the last line's end: half a line, when the other process stopped in the middle of one.
    var unfinished: String { remainder.withLock { $0 } }

    /// Waits until a line fulfils the condition.
    ///
    /// - Returns: the first such line, or nil at the deadline.
    func wait(timeoutNanoseconds: UInt64, _ condition: (Line) -> Bool) -> Line? {
        let deadline = MonotonicClock.nowNanoseconds() + timeoutNanoseconds
        var seen = 0
        while true {
            let fresh = lines.withLock { $0[seen...] }
            if let line = fresh.first(where: condition) { return line }
            seen += fresh.count
            if MonotonicClock.nowNanoseconds() >= deadline { return nil }
            _ = poll(nil, 0, 5)
        }
    }

    private func read() {
        var rest: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            // SAFETY: the array outlives the call, which writes within its count.
            let count = unsafe recv(ours, &piece, piece.count, 0)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return }
            let now = MonotonicClock.nowNanoseconds()
            rest.append(contentsOf: piece[..<count])
            var whole: [Line] = []
            while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
                let text = String(decoding: rest[..<end].filter { $0 != UInt8(ascii: "\r") }, as: UTF8.self)
                whole.append(Line(arrivedNanoseconds: now, text: text))
                rest.removeFirst(end + 1)
            }
            lines.withLock { $0.append(contentsOf: whole) }
            remainder.withLock { $0 = String(decoding: rest.filter { $0 != UInt8(ascii: "\r") }, as: UTF8.self) }
        }
    }
}
