import PageCore
import TestSupport
import Testing

@testable import ProcessMemory

/// What the kernel writes of a process's mappings, and what of it is served.
@Suite(.leavesNothing) struct MemoryMappingTests {
    private let smaps = """
        55d0c0000000-55d0c0001000 r-xp 00001000 fd:01 1311 /usr/bin/a program
        Size:                  4 kB
        Rss:                   4 kB
        VmFlags: rd ex mr mw me sd
        55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
        VmFlags: rd wr mr mw me ac sd
        7f0000000000-7f0000002000 rw-p 00000000 00:00 0\u{20}
        ProtectionKey:         0
        VmFlags: rd wr mr mw me ac um sd
        7f0000002000-7f0000004000 rw-s 00003000 00:01 77                         /memfd:two\\012lines (deleted)
        7f0000004000-7f0000005000 rw-s 00000000 00:0c 9                          /dev/dri/card0
        VmFlags: rd wr sh mr mw me ms pf io dc dd
        7ffd00000000-7ffd00001000 r--p 00000000 00:00 0                          [vvar]
        ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]

        """

    @Test func whatTheKernelWritesIsRead() throws {
        let mappings = try MemoryMapping.parse(smaps)
        #expect(
            mappings.map(\.name) == [
                "/usr/bin/a program", "[heap]", "", "/memfd:two\\012lines (deleted)", "/dev/dri/card0", "[vvar]", "[vsyscall]",
            ])
        #expect(mappings[0].addresses == 0x55d0_c000_0000..<0x55d0_c000_1000)
        #expect(mappings[0].permissions == [.read, .execute])
        #expect(mappings[0].fileOffset == 0x1000)
        #expect(mappings[0].file == MemoryMapping.File(device: 0xfd << 32 | 1, inode: 1311))
        #expect(mappings[3].permissions == [.read, .write, .shared])
        #expect(mappings.map(\.flags) == [[], [], .userfault, [], .device, [], []])
        #expect(mappings.map(\.permissions.letters) == ["r-xp", "rw-p", "rw-p", "rw-s", "rw-s", "r--p", "--xp"])
    }

    @Test(arguments: [
        "55d0c0000000 r-xp 00001000 fd:01 1311", "55d0c0001000-55d0c0000000 r-xp 0 fd:01 1311",
        "55d0c0000000-55d0c0001001 r-xp 0 fd:01 1311",
        "55d0c0000000-55d0c0001000 r-x 0 fd:01 1311", "55d0c0000000-55d0c0001000 rwxq 0 fd:01 1311",
        "55d0c0000000-55d0c0001000 r-xp 0 fd01 1311",
        "55d0c0000000-55d0c0001000 r-xp 0 fd:01", "55d0c0000000-55d0c0001000 r-xp 0 fd:01 x", "g-h r-xp 0 fd:01 1311", "Size: 4 kB", " ",
        "2000-4000 r-xp 0 0:0 0\n3000-5000 r-xp 0 0:0 0",
    ])
    func whatIsNoMappingIsRefused(_ text: String) {
        #expect(throws: ProcessMemoryError.self) { try MemoryMapping.parse(text) }
    }

    private func mapping(_ name: String, _ permissions: String = "rw-p", inode: UInt64 = 0, flags: MemoryMapping.Flags = []) throws
        -> MemoryMapping
    {
        var mapping = try #require(try MemoryMapping.parse("1000-2000 \(permissions) 0 00:01 \(inode) \(name)").first)
        mapping.flags = flags
        return mapping
    }

    @Test(
        arguments: [
            ("", "rw-p", 0, MappingKind.ownMemory), ("[heap]", "rw-p", 0, .ownMemory), ("[stack]", "rw-p", 0, .ownMemory),
            ("[anon:arena of mine]", "rw-p", 0, .ownMemory), ("/dev/zero", "rw-p", 5, .ownMemory),
            ("/anon_hugepage (deleted)", "rw-p", 5, .ownMemory),
            ("/memfd:code (deleted)", "r-xp", 5, .ownMemory), ("/usr/lib/gone.so (deleted)", "r-xp", 5, .ownMemory),
            ("/usr/lib/libc.so.6", "rw-p", 5, .file), ("/dev/zero (deleted)", "rw-s", 5, .sharedMemory),
            ("/memfd:x (deleted)", "rw-s", 5, .sharedMemory),
            ("/SYSV00000000 (deleted)", "rw-s", 5, .sharedMemory), ("/dev/shm/queue", "rw-s", 5, .sharedMemory),
            ("[anon_shmem:x]", "rw-s", 5, .sharedMemory),
            ("/var/lib/database", "rw-s", 5, .file), ("/dev/dri/card0", "rw-s", 5, .kernel), ("/dev/mem", "rw-p", 5, .kernel),
            ("anon_inode:[io_uring]", "rw-s", 5, .kernel), ("[vdso]", "r-xp", 0, .kernel), ("[vvar_vclock]", "r--p", 0, .kernel),
            ("[vsyscall]", "--xp", 0, .kernel), ("[uprobes]", "--xp", 0, .kernel),
        ] as [(String, String, UInt64, MappingKind)])
    func kinds(_ name: String, _ permissions: String, _ inode: UInt64, _ kind: MappingKind) throws {
        let mapping = try mapping(name, permissions, inode: inode)
        #expect(mapping.kind(hasOwnPages: false, isMemoryFile: nil) == kind)
        var device = mapping
        device.flags = .device
        #expect(device.kind(hasOwnPages: true, isMemoryFile: true) == .kernel, "a device's memory is never served")
    }

    @Test func whatTheFileSystemSaysCounts() throws {
        let mapping = try mapping("/run/somewhere/on a tmpfs", "rw-s", inode: 5)
        #expect(mapping.kind(hasOwnPages: false, isMemoryFile: true) == .sharedMemory)
        #expect(mapping.kind(hasOwnPages: false, isMemoryFile: false) == .file)
        #expect(
            try self.mapping("/usr/lib/libc.so.6", inode: 5).kind(hasOwnPages: true, isMemoryFile: nil) == .ownMemory,
            "changed pages come along")
    }

    // MARK: Regions

    private func part(_ line: String, own: [Range<Int>] = [], unreadable: Range<Int>? = nil, open: Bool = true) throws -> ProcessPlan.Part {
        let mapping = try #require(try MemoryMapping.parse(line).first)
        return ProcessPlan.Part(
            mapping: mapping, kind: mapping.kind(hasOwnPages: !own.isEmpty, isMemoryFile: nil), ownPages: own, unreadable: unreadable,
            hasOpenFile: open)
    }

    /// Neighbours make one region; what was never touched makes none.
    @Test func privateRegions() throws {
        let plan = ProcessPlan([
            try part("10000-12000 rw-p 1000 8:1 7 /bin/a", own: [0..<1], unreadable: 1..<2),
            try part("12000-16000 rw-p 0 0:0 0", own: [1..<2]),
            try part("16000-17000 r--p 0 8:1 7 /bin/a"),
            try part("17000-19000 rw-p 0 0:0 0 [heap]", own: [0..<1, 1..<2]),
            try part("20000-30000 ---p 0 0:0 0"),
        ])
        #expect(plan.regions.map(\.extent) == [0x10000..<0x16000, 0x17000..<0x19000])
        #expect(plan.regions.map(\.holes) == [[1..<3, 4..<6], []])
        #expect(plan.places.map { $0?.region } == [0, 0, nil, 1, nil])
        #expect(plan.places.map { $0?.offset } == [0, 0x2000, nil, 0, nil])
        #expect(
            plan.text == """
                pageferry-process-layout 1
                region 0 private 6000
                region 1 private 2000
                map 10000-12000 rw-p private 0 0 1000 /bin/a
                map 12000-16000 rw-p private 0 2000 0
                map 16000-17000 r--p file - 0 0 /bin/a
                map 17000-19000 rw-p private 1 0 0 [heap]
                map 20000-30000 ---p private - 0 0

                """)
    }

    /// A file that is mapped in several places is served once.
    @Test func sharedRegions() throws {
        let lines = [
            "10000-12000 rw-s 1000 0:1 7 /memfd:ring (deleted)", "12000-14000 rw-s 1000 0:1 7 /memfd:ring (deleted)",
            "14000-15000 rw-s 0 0:1 7 /memfd:ring (deleted)", "15000-16000 rw-s 9000 0:1 7 /memfd:ring (deleted)",
            "16000-17000 rw-s 0 0:1 8 /memfd:ring (deleted)",
        ]
        let plan = ProcessPlan(try lines.map { try part($0) })
        #expect(plan.regions.map(\.extent) == [0..<0x3000, 0x9000..<0xa000, 0..<0x1000])
        #expect(plan.places.map { $0?.region } == [0, 0, 0, 1, 2])
        #expect(plan.places.map { $0?.offset } == [0x1000, 0x1000, 0, 0, 0])
        // Where the kernel does not let its file be opened, each mapping is read by itself.
        #expect(ProcessPlan(try lines.map { try part($0, open: false) }).regions.count == 5)
    }
}
