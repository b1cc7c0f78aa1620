import Glibc

/// Whether the host has a processor for a thread that spins: none that something else could run on meanwhile.
///
/// A daemon that spins where a vCPU could run makes the guest wait for longer than the wake-up costs that it saves. Read from
/// `/proc/loadavg`, whose fourth field begins with the runnable threads of the whole host, this one included (proc(5)): one
/// `pread` of about a microsecond, at most once a millisecond.
struct SpareProcessors: ~Copyable {
    private static var freshNanoseconds: UInt64 { 1_000_000 }
    /// Five fields, of which the first three are averages: 20 to 50 bytes.
    private static var lengthBytes: Int { 128 }

    /// -1 where the host does not tell: then there always is one.
    private let descriptor: Int32
    private let processorCount: Int
    private var areThere = true
    private var nextLookNanoseconds: UInt64 = 0

    /// - Parameters:
    ///   - path: opened here; a sandbox that closes the file system later does not matter.
    ///   - processorCount: those online, whichever of them this process may use: the runnable threads are counted on all.
    init(path: String = "/proc/loadavg", processorCount: Int = sysconf(Int32(_SC_NPROCESSORS_ONLN))) {
        // SAFETY: the path is terminated and lives for the call.
        descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        self.processorCount = processorCount
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Looks again when what it knows is older than a millisecond.
    mutating func areThere(nowNanoseconds: UInt64) -> Bool {
        guard descriptor >= 0, nowNanoseconds >= nextLookNanoseconds else { return areThere }
        nextLookNanoseconds = nowNanoseconds &+ Self.freshNanoseconds
        areThere = (runnableThreads() ?? 0) <= processorCount
        return areThere
    }

    private func runnableThreads() -> Int? {
        unsafe withUnsafeTemporaryAllocation(byteCount: Self.lengthBytes, alignment: 1) { buffer in
            // SAFETY: the kernel fills at most the buffer, which lives for the call.
            let count = unsafe pread(descriptor, buffer.baseAddress, buffer.count, 0)
            guard count > 0 else { return nil }
            return unsafe Self.runnableThreads(in: RawSpan(_unsafeBytes: UnsafeRawBufferPointer(rebasing: buffer[..<count])))
        }
    }

    /// The 3 of `0.75 0.67 1.08 3/85 32169`; nil of anything else.
    static func runnableThreads(in line: borrowing RawSpan) -> Int? {
        var field = 0
        var number: Int?
        for index in 0..<line.byteCount {
            // SAFETY: the index lies in the span, and any byte is a number.
            let byte = unsafe line.unsafeLoad(fromByteOffset: index, as: UInt8.self)
            switch byte {
            case UInt8(ascii: " "): field += 1
            case UInt8(ascii: "/") where field == 3: return number
            case UInt8(ascii: "0")...UInt8(ascii: "9") where field == 3:
                let (shifted, isTooLong) = (number ?? 0).multipliedReportingOverflow(by: 10)
                guard !isTooLong else { return nil }
                number = shifted &+ Int(byte - UInt8(ascii: "0"))
            default: if field == 3 { return nil }
            }
        }
        return nil
    }
}
