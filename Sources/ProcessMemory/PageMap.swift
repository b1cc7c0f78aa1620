import Glibc
import PageCore

/// /proc/PID/pagemap: which pages of its private memory a process has (Documentation/admin-guide/mm/pagemap.rst).
struct PageMap: ~Copyable {
    /// An entry's bits: in memory; swapped out; of a file, or of shared memory.
    private static let present: UInt64 = 1 << 63
    private static let swapped: UInt64 = 1 << 62
    private static let ofFile: UInt64 = 1 << 61
    private static let pageShift = PageSize.fourKiB.shift
    private static let entriesAtOnce = 8192

    private let file: ProcessFile
    private let process: Int32

    init(_ process: Int32, thread: Int32) throws(ProcessMemoryError) {
        file = try ProcessFile(process, "task/\(thread)/pagemap")
        self.process = process
    }

    /// The runs of pages of `addresses` that the process has for itself, as numbers of pages from the first. O(pages).
    func ownPages(_ addresses: Range<UInt>) throws(ProcessMemoryError) -> [Range<PageIndex>] {
        var runs: [Range<PageIndex>] = []
        var entries = [UInt64](repeating: 0, count: Self.entriesAtOnce)
        let pageCount = addresses.count >> Self.pageShift
        var page = 0
        while page < pageCount {
            let wanted = min(Self.entriesAtOnce, pageCount - page)
            let offset = UInt64(addresses.lowerBound >> Self.pageShift + UInt(page)) * 8
            // SAFETY: the array has at least as many entries.
            let count = unsafe readAt(file.descriptor, &entries, wanted * 8, offset: offset)
            guard count > 0 else {
                throw count == 0 || count == -Int(ESRCH)
                    ? .ended(process) : .systemCall(name: "read(2) on /proc/\(process)/pagemap", code: Int32(-count))
            }
            for index in 0..<count / 8 where isOwn(entries[index]) {
                if let last = runs.last, last.upperBound == page + index {
                    runs[runs.count - 1] = last.lowerBound..<page + index + 1
                } else {
                    runs.append(page + index..<page + index + 1)
                }
            }
            page += count / 8
        }
        return runs
    }

    private func isOwn(_ entry: UInt64) -> Bool {
        entry & Self.swapped != 0 || (entry & Self.present != 0 && entry & Self.ofFile == 0)
    }
}
