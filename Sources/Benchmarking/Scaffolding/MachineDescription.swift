import Glibc

/// What the figures were measured on and with: figures of different machines are not compared.
public struct MachineDescription: Sendable, Codable {
    public var processor: String
    public var cores: Int
    public var memoryMiB: Int
    public var kernel: String
    public var isVirtual: Bool
    public var sharedMemoryHugePages: String
    public var build: String
    /// The source's revision, where the caller knows it.
    public var revision: String?
    /// Of the last minute, when the run began: above 1 something else was using the machine.
    public var loadAverage: Double

    public static func current(revision: String?) -> Self {
        let processors = ProcessFile.read("/proc/cpuinfo").split(separator: "\n")
        let flags = value(of: "flags", in: processors)
        var name = utsname()
        // SAFETY: the kernel fills the structure, whose release field is terminated.
        let release =
            unsafe uname(&name) == 0
            ? unsafe withUnsafeBytes(of: &name.release) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            } : "unknown"
        return Self(
            processor: value(of: "model name", in: processors), cores: usableCores(),
            memoryMiB: (sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))) >> 20, kernel: release,
            isVirtual: flags.split(separator: " ").contains("hypervisor"),
            sharedMemoryHugePages: chosen(ProcessFile.read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")),
            build: Self.buildName, revision: revision,
            loadAverage: ProcessFile.read("/proc/loadavg").split(separator: " ").first.flatMap { Double($0) } ?? 0)
    }

    private static var buildName: String {
        #if DEBUG
            "debug: figures of a debug build say nothing; use `swift build -c release`"
        #elseif compiler(>=6.3)
            "release, Swift 6.3 or newer"
        #else
            "release"
        #endif
    }

    /// Cores this process may run on, which `taskset` limits.
    private static func usableCores() -> Int {
        let allowed = ProcessFile.read("/proc/self/status").split(separator: "\n").first { $0.hasPrefix("Cpus_allowed_list:") }
        guard let list = allowed?.split(separator: "\t").last else { return Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
        return list.split(separator: ",").reduce(0) { count, part in
            let ends = part.split(separator: "-").compactMap { Int($0) }
            return count + (ends.count == 2 ? ends[1] - ends[0] + 1 : 1)
        }
    }

    private static func value(of key: String, in lines: [Substring]) -> String {
        guard let line = lines.first(where: { $0.hasPrefix(key) }), let colon = line.firstIndex(of: ":") else { return "unknown" }
        return String(line[line.index(after: colon)...].drop { $0 == " " })
    }

    /// "[never]" of a list of choices.
    private static func chosen(_ text: String) -> String {
        text.split(separator: " ").first { $0.hasPrefix("[") }.map { String($0.dropFirst().dropLast()) } ?? "unknown"
    }

    /// The lines above every table.
    public var header: String {
        """
        \(processor), \(cores) cores\(isVirtual ? " (virtual machine)" : ""), \(memoryMiB >> 10) GiB, Linux \(kernel), \
        huge pages of shared memory: \(sharedMemoryHugePages)
        build: \(build)\(revision.map { ", revision \($0)" } ?? ""); load average at start: \(loadAverage)
        """
    }
}
