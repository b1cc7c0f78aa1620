import CShims
import Glibc

/// What this process may pin (RLIMIT_MEMLOCK, getrlimit(2)); the kernel asks nobody with CAP_IPC_LOCK.
public enum LockedMemory {
    /// The soft limit in bytes; nil when there is none.
    public static var limitBytes: Int? {
        var limit = rlimit()
        // SAFETY: the kernel fills the structure.
        guard unsafe pageferry_verbs_locked_memory_limit(&limit) == 0, limit.rlim_cur < UInt64(Int.max) else { return nil }
        return Int(limit.rlim_cur)
    }

    /// Whether the limit does not count for this process.
    public static var isUnbounded: Bool {
        if limitBytes == nil { return true }
        // CAP_IPC_LOCK is capability 14 (capabilities(7)).
        return statusValue("CapEff:", radix: 16).map { $0 & (1 << 14) != 0 } ?? false
    }

    /// Bytes pinned by this process now.
    public static var pinnedBytes: Int { statusValue("VmPin:", radix: 10).map { Int($0) << 10 } ?? 0 }

    private static func statusValue(_ name: String, radix: Int) -> UInt64? {
        var text = [UInt8](repeating: 0, count: 16 << 10)
        let descriptor = unsafe open("/proc/self/status", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var used = 0
        while used < text.count {
            // SAFETY: the read stays inside the array.
            let count = unsafe text.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress! + used, $0.count - used) }
            guard count > 0 else { break }
            used += count
        }
        for line in text[..<used].split(separator: UInt8(ascii: "\n")) {
            let line = String(decoding: line, as: UTF8.self)
            guard line.hasPrefix(name) else { continue }
            let digits = line.dropFirst(name.count).drop { $0 == " " || $0 == "\t" }.prefix { $0.isHexDigit }
            return UInt64(digits, radix: radix)
        }
        return nil
    }
}
