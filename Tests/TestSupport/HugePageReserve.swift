import Glibc

/// Huge pages reserved for one test and given back at its end. Adds to what others reserved, under a lock.
public struct HugePageReserve: ~Copyable {
    private let count: Int

    /// Nil, with a printed reason, when the host cannot spare `count` pages of 2 MiB.
    public init?(count: Int) {
        guard Self.change(by: count) else {
            print("skipped: \(count) huge pages of 2 MiB cannot be reserved through /proc/sys/vm/nr_hugepages")
            return nil
        }
        self.count = count
    }

    deinit { _ = Self.change(by: -count) }

    private static func change(by difference: Int) -> Bool {
        let file = open("/proc/sys/vm/nr_hugepages", O_RDWR | O_CLOEXEC)
        guard file >= 0, flock(file, LOCK_EX) == 0 else { return false }
        defer { close(file) }
        guard let before = number(file), write(before + difference, file), let after = number(file) else { return false }
        guard after >= before + difference else {
            _ = write(before, file)
            return false
        }
        return true
    }

    private static func number(_ file: Int32) -> Int? {
        var buffer = [UInt8](repeating: 0, count: 32)
        let count = pread(file, &buffer, buffer.count, 0)
        guard count > 0 else { return nil }
        return Int(String(decoding: buffer[..<count], as: UTF8.self).prefix { $0.isNumber })
    }

    private static func write(_ value: Int, _ file: Int32) -> Bool {
        let text = Array("\(value)\n".utf8)
        return pwrite(file, text, text.count, 0) == text.count
    }
}
