import CShims
import Glibc
import HostMemory
import PageCore

/// Looks through a stopped process's mappings, once, before it is served.
struct ProcessSurvey: ~Copyable {
    let process: Int32
    private let thread: Int32
    /// /proc/PID/mem, borrowed.
    private let memory: Int32

    init(_ stopped: StoppedProcess, memory: Int32) {
        process = stopped.process
        thread = stopped.thread
        self.memory = memory
    }

    /// Every mapping, with what it is. A mapping that somebody else pages is refused: what is missing there is not zero.
    borrowing func parts() throws(ProcessMemoryError) -> [ProcessPlan.Part] {
        let text = try ProcessFile(process, "task/\(thread)/smaps").text(of: process)
        let pageMap = try PageMap(process, thread: thread)
        var parts: [ProcessPlan.Part] = []
        for mapping in try MemoryMapping.parse(text) {
            var part = ProcessPlan.Part(mapping: mapping, kind: mapping.kind(hasOwnPages: false, isMemoryFile: nil))
            if part.kind != .kernel {
                if mapping.isShared {
                    if let file = openFile(of: mapping) {
                        part.hasOpenFile = true
                        part.kind = mapping.kind(hasOwnPages: false, isMemoryFile: Self.isMemory(file))
                    }
                } else {
                    part.ownPages = try pageMap.ownPages(mapping.addresses)
                    part.kind = mapping.kind(hasOwnPages: !part.ownPages.isEmpty, isMemoryFile: nil)
                    if part.kind == .ownMemory, !mapping.beginsAsZeros { part.unreadable = unreadableEnd(mapping) }
                }
            }
            let isServed = part.kind == .ownMemory || part.kind == .sharedMemory
            if isServed, mapping.flags.contains(.userfault) { throw .pagedByAnother(process, addresses: mapping.addresses) }
            parts.append(part)
        }
        return parts
    }

    /// The file behind a shared mapping; nil where the kernel lets nobody but CAP_CHECKPOINT_RESTORE and CAP_SYS_ADMIN have it.
    borrowing func openFile(of mapping: MemoryMapping) -> MemoryFile? {
        try? MemoryFile(path: "/proc/\(process)/map_files/\(mapping.addresses.hexadecimal)", access: .readOnly)
    }

    private static func isMemory(_ file: borrowing MemoryFile) -> Bool {
        var type: Int64 = 0
        var blockBytes: Int64 = 0
        // SAFETY: the shim writes two integers, these variables.
        guard unsafe pageferry_file_system(file.rawValue, &type, &blockBytes) == 0 else { return false }
        return type == Int64(PAGEFERRY_TMPFS_MAGIC) || type == Int64(PAGEFERRY_HUGETLBFS_MAGIC)
    }

    /// The pages at the end of a mapping that lie behind the end of its file; nil when there are none. Two reads when there are none.
    private borrowing func unreadableEnd(_ mapping: MemoryMapping) -> Range<PageIndex>? {
        let count = mapping.addresses.count >> 12
        var (readable, unreadable) = (0, count)
        if isReadable(mapping, count - 1) { return nil }
        while readable < unreadable {
            let middle = (readable + unreadable) / 2
            if isReadable(mapping, middle) { readable = middle + 1 } else { unreadable = middle }
        }
        return unreadable..<count
    }

    private borrowing func isReadable(_ mapping: MemoryMapping, _ page: PageIndex) -> Bool {
        var byte: UInt8 = 0
        // SAFETY: one byte, a local variable.
        return unsafe readAt(memory, &byte, 1, offset: UInt64(mapping.addresses.lowerBound) + UInt64(page) << 12) == 1
    }
}
