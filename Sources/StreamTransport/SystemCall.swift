import CShims
import Glibc

/// The one funnel for the system calls of this module: interrupted calls are made again.
///
/// - Returns: the call's result, or the negated error number.
@inline(__always)
func systemCall(_ call: () -> Int32) -> Int32 {
    while true {
        let result = call()
        if result >= 0 { return result }
        let number = errno
        if number != EINTR { return -number }
    }
}

/// The kernel's text for an error number.
func errorText(_ number: Int32) -> String {
    // SAFETY: the C library's table of constant strings.
    unsafe String(cString: CShimsSocket_errorText(number))
}

/// The monotonic clock, in nanoseconds.
@inline(__always)
func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    // SAFETY: the structure outlives the call; this clock cannot fail.
    unsafe clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) &* 1_000_000_000 &+ UInt64(now.tv_nsec)
}

/// A moment on the monotonic clock, or never.
struct Deadline {
    private let nanoseconds: UInt64

    init(after timeoutNanoseconds: UInt64) {
        let (sum, overflow) = monotonicNanoseconds().addingReportingOverflow(timeoutNanoseconds)
        nanoseconds = overflow ? .max : sum
    }

    var remainingNanoseconds: UInt64 {
        if nanoseconds == .max { return .max }
        let now = monotonicNanoseconds()
        return now >= nanoseconds ? 0 : nanoseconds - now
    }
}

/// The owner of one file descriptor.
struct Descriptor: ~Copyable {
    private var number: Int32

    init(owning number: Int32) { self.number = number }

    deinit {
        if number >= 0 { close(number) }
    }

    /// The descriptor's number; -1 when given up.
    var raw: Int32 { number }

    mutating func closeNow() {
        // Not retried: Linux releases the number even when close is interrupted.
        if number >= 0 { close(number) }
        number = -1
    }

    consuming func release() -> Int32 {
        let given = number
        number = -1
        return given
    }
}
