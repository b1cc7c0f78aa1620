import Glibc
import HostMemory
import PageCore

/// How fast this processor copies memory that is there: nothing that moves page content through it is faster.
enum CopyFloor {
    /// - Returns: GB/s.
    static func gigabytesPerSecond(lengthBytes: Int) throws(BenchmarkError) -> Double {
        let source = try orBenchmarkError { try MappedMemory(anonymousBytes: lengthBytes) }
        let target = try orBenchmarkError { try MappedMemory(anonymousBytes: lengthBytes) }
        try orBenchmarkError {
            try source.populate()
            try target.populate()
        }
        let start = MonotonicClock.nowNanoseconds()
        // SAFETY: both mappings have so many bytes, and do not overlap.
        unsafe memcpy(target.pointer, source.pointer, lengthBytes)
        return Double(lengthBytes) / Double(MonotonicClock.nowNanoseconds() - start)
    }
}
