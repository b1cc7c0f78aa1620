import CShims
import Glibc

/// What this process holds of the host at one moment, as /proc has it.
struct ProcessResources {
    /// What each open descriptor is, by its number: a path, or "socket:[1234]".
    var descriptors: [Int32: String] = [:]
    /// Bytes mapped, by file, of files that only exist in memory, and of rings and devices.
    var mappedBytes: [String: Int] = [:]
    /// Names of threads that were given one, by their id.
    var threads: [pid_t: String] = [:]
    /// Command lines of running children, by their id; what they left running when they ended is a child as well.
    var children: [pid_t: String] = [:]
    /// Files in /dev/shm that bear this process's id.
    var sharedMemoryFiles: Set<String> = []
    /// Registered memory regions on the device that PAGEFERRY_RDMA names; nil when none is named, or nobody can count them.
    var memoryRegistrations: Int?

    static func now() -> ProcessResources {
        adoptOrphans()
        var found = ProcessResources()
        for name in directoryEntries("/proc/self/fd") {
            if let number = Int32(name), let target = linkTarget("/proc/self/fd/\(name)") { found.descriptors[number] = target }
        }
        found.mappedBytes = mappings()
        let ownName = fileText("/proc/self/comm") ?? ""
        for name in directoryEntries("/proc/self/task") {
            guard let id = pid_t(name), let comm = fileText("/proc/self/task/\(name)/comm"), comm != ownName else { continue }
            if !isOfTheRuntime(comm) { found.threads[id] = String(comm.dropLast()) }
        }
        found.children = runningChildren()
        found.sharedMemoryFiles = Set(directoryEntries("/dev/shm").filter { $0.contains("-\(getpid())") })
        found.memoryRegistrations = RDMAResources.memoryRegistrations()
        return found
    }

    /// What is here and was not in `before`: one line each.
    func leaks(since before: ProcessResources) -> [String] {
        var lines: [String] = []
        for (number, target) in descriptors where before.descriptors[number] != target && !isKeptOnce(target, before) {
            lines.append("descriptor \(number): \(target)")
        }
        for (path, bytes) in mappedBytes where bytes > before.mappedBytes[path, default: 0] && !isKeptOnce(path, before) {
            lines.append("mapping: \(bytes - before.mappedBytes[path, default: 0]) bytes of \(path)")
        }
        for (id, name) in threads where before.threads[id] == nil { lines.append("thread \(id): \(name)") }
        for (id, line) in children where before.children[id] == nil { lines.append("process \(id): \(line)") }
        for name in sharedMemoryFiles.subtracting(before.sharedMemoryFiles) { lines.append("file: /dev/shm/\(name)") }
        if let now = memoryRegistrations, let then = before.memoryRegistrations, now > then {
            lines.append("RDMA: \(now - then) registered memory regions")
        }
        // A sanitizer's own helper, started with its first report, also of what is suppressed; it lives on with its two pipes.
        if lines.contains(where: Self.isSymbolizer) { lines.removeAll { Self.isSymbolizer($0) || $0.contains(": pipe:[") } }
        return lines.sorted()
    }

    /// Threads the kernel keeps for a ring for a while, the test library's, and libdispatch's.
    private static func isOfTheRuntime(_ threadName: String) -> Bool {
        threadName.hasPrefix("iou-") || threadName.hasPrefix("SWT ") || threadName.contains("-qos")
    }

    private static func isSymbolizer(_ line: String) -> Bool { line.hasPrefix("process ") && line.contains("/llvm-symbolizer ") }

    /// librdmacm opens each device once and keeps it until the process ends.
    private func isKeptOnce(_ target: String, _ before: ProcessResources) -> Bool {
        guard target.hasPrefix("/dev/infiniband/") || target.contains("[infinibandevent]") else { return false }
        return !before.descriptors.values.contains(target)
    }

    private static func linkTarget(_ path: String) -> String? {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = buffer.withUnsafeMutableBytes { readlink(path, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count) }
        return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
    }

    /// proc(5): "start-end perms offset dev inode path".
    private static func mappings() -> [String: Int] {
        var found: [String: Int] = [:]
        for line in (fileText("/proc/self/maps") ?? "").split(separator: "\n") {
            let fields = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
            guard fields.count == 6 else { continue }
            // What is left after the fifth begins with the blanks that line the paths up.
            let path = String(fields[5].drop { $0 == " " })
            guard ["/memfd:", "/dev/shm/", "/dev/infiniband", "/anon_hugepage", "anon_inode:"].contains(where: path.hasPrefix) else {
                continue
            }
            let ends = fields[0].split(separator: "-").compactMap { Int($0, radix: 16) }
            if ends.count == 2 { found[path, default: 0] += ends[1] - ends[0] }
        }
        return found
    }

    /// Children of children that have ended become ours, so that a process left behind is found wherever it came from.
    private static func adoptOrphans() { _ = pageferry_adopt_orphans() }

    private static func runningChildren() -> [pid_t: String] {
        var found: [pid_t: String] = [:]
        for name in directoryEntries("/proc") {
            // "id (name) state parent …"; the name may hold anything, a bracket too.
            guard let id = pid_t(name), let status = fileText("/proc/\(name)/stat"), let end = status.lastIndex(of: ")") else { continue }
            let fields = status[end...].dropFirst(2).split(separator: " ")
            guard fields.count > 1, pid_t(fields[1]) == getpid(), fields[0] != "Z", fields[0] != "X" else { continue }
            let line = fileContents("/proc/\(name)/cmdline") ?? []
            found[id] = String(decoding: line.map { $0 == 0 ? UInt8(ascii: " ") : $0 }, as: UTF8.self)
        }
        return found
    }
}
