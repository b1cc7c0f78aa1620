import Glibc

/// CLOCK_MONOTONIC in nanoseconds: one clock for every latency, time-out and log stamp of a host.
public enum MonotonicClock {
    /// Nanoseconds since an arbitrary start; never goes back.
    @inlinable
    public static func nowNanoseconds() -> UInt64 {
        var time = timespec()
        // SAFETY: the kernel fills the local structure and keeps no reference; CLOCK_MONOTONIC cannot fail on Linux.
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
