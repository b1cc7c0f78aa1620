import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

/// The preload library in an unmodified QEMU, and in another program that maps a file.
@Suite("Preload library", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted && qemuIsInstalled))
struct NativePreloadTests {
    private let path = socketPath("preload")
    private let ramPath = "/dev/shm/pageferry-test-\(getpid())-ram"

    /// Starts QEMU and takes its hand-off; QEMU must have got on to its own work after it.
    private func handOver(
        _ backends: [String], _ ram: [String: String], _ check: (borrowing HandedOverRegions) throws -> Void
    ) throws {
        let listener = try HandoffListener(path: path)
        let monitor = socketPath("monitor")
        defer { unlink(monitor) }
        var environment = ram
        environment["PAGEFERRY_HANDOFF"] = path
        let vmm = try startQEMU(backends, environment: environment)
        do {
            let connection = try listener.accept(timeoutNanoseconds: 20 * seconds)
            #expect(connection.peer.processIdentifier == vmm.processIdentifier)
            let regions = try connection.receiveRegions(timeoutNanoseconds: 20 * seconds)
            try check(regions)
            try connection.acknowledge()
            // Its main loop runs: several threads, all asleep, and no message.
            #expect(poll(until: { sleepsInPoll(vmm.processIdentifier) || vmm.hasEnded }))
            #expect(!vmm.hasEnded, "\(vmm.output)")
            #expect(vmm.output == "")
        } catch {
            Issue.record("\(error); QEMU said: \(vmm.output)")
        }
    }

    private func sleepsInPoll(_ process: Int32) -> Bool {
        let file = open("/proc/\(process)/syscall", O_RDONLY)
        guard file >= 0 else { return false }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = read(file, &bytes, bytes.count)
        // ppoll(2).
        return String(decoding: bytes[..<max(count, 0)], as: UTF8.self).hasPrefix("271 ")
    }

    @Test("QEMU's memory is handed over again when the daemon has died, as often as that happens")
    func again() throws {
        defer { unlink(ramPath) }
        let monitor = socketPath("monitor")
        defer { unlink(monitor) }
        let backends = ["memory-backend-file,id=ram0,size=64M,mem-path=\(ramPath),share=on"]
        var address: UInt?
        var started: [PreloadedProcess] = []
        for round in 0..<3 {
            // Each daemon ends with this turn, as one that is killed: its connection is closed, and its descriptors.
            let listener = try HandoffListener(path: path)
            if round == 0 { started.append(try startQEMU(backends, environment: ["PAGEFERRY_RAM": ramPath, "PAGEFERRY_HANDOFF": path])) }
            let connection = try listener.accept(timeoutNanoseconds: 20 * seconds)
            let regions = try connection.receiveRegions(again: round > 0, timeoutNanoseconds: 20 * seconds)
            #expect(regions.count == 1)
            #expect(regions[0].lengthBytes == 64 << 20)
            #expect(regions[0].address == address ?? regions[0].address)
            address = regions[0].address
            try connection.acknowledge()
        }
        #expect(started.first?.hasEnded == false)
    }

    @Test("QEMU hands over a named memory file")
    func namedFile() throws {
        defer { unlink(ramPath) }
        try handOver(["memory-backend-file,id=ram0,size=64M,mem-path=\(ramPath),share=on"], ["PAGEFERRY_RAM": ramPath]) { regions in
            #expect(regions.count == 1)
            #expect(regions[0].lengthBytes == 64 << 20)
            #expect(regions[0].pageSize == .fourKiB)
            #expect(regions[0].fileOffset == 0)
            #expect(regions[0].kind == .shared)
            #expect(regions[0].modes == [.missing, .minor])
            #expect(regions[0].userfault.features.isSuperset(of: [.missingSharedMemory, .minorSharedMemory, .removeEvents]))
            let sameFile = try regions[0].file!.isSameFile(as: MemoryFile(path: ramPath, access: .readOnly))
            #expect(sameFile)
        }
    }

    @Test(
        "QEMU hands over its unnamed file in a directory, a memfd, and whatever is large enough",
        arguments: [
            ("memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm,share=on", ["PAGEFERRY_RAM": "/dev/shm/"]),
            ("memory-backend-memfd,id=ram0,size=64M,share=on", ["PAGEFERRY_RAM": "memfd:memory-backend-memfd"]),
            ("memory-backend-memfd,id=ram0,size=64M,share=on", ["PAGEFERRY_RAM": "memfd:memory-*"]),
            ("memory-backend-memfd,id=ram0,size=64M,share=on", ["PAGEFERRY_RAM_MIN_BYTES": "67108864"]),
        ])
    func unnamed(backend: String, environment: [String: String]) throws {
        try handOver([backend], environment) { regions in
            #expect(regions.count == 1)
            #expect(regions[0].lengthBytes == 64 << 20)
        }
    }

    @Test("Two memory files make one hand-off")
    func twoFiles() throws {
        let second = ramPath + "-second"
        defer {
            unlink(ramPath)
            unlink(second)
        }
        let backends = [ramPath, second].enumerated().map {
            "memory-backend-file,id=ram\($0.offset),size=64M,mem-path=\($0.element),share=on"
        }
        try handOver(backends, ["PAGEFERRY_RAM": "\(ramPath):\(second)"]) { regions in
            #expect(regions.count == 2)
            #expect(regions[0].lengthBytes == 64 << 20)
            #expect(regions[1].lengthBytes == 64 << 20)
        }
    }

    @Test("A QEMU without privileges uses the userfaultfd device its launcher opened")
    func withoutPrivileges() throws {
        let setpriv = "/usr/bin/setpriv"
        guard geteuid() == 0, access(setpriv, X_OK) == 0, access("/dev/userfaultfd", R_OK | W_OK) == 0 else {
            return print("skipped: needs root, setpriv and /dev/userfaultfd")
        }
        let nobody: UInt32 = 65534
        let listener = try HandoffListener(path: path, owner: nobody)
        let vmm = try PreloadedProcess(
            [
                "/bin/sh", "-c",
                "exec 9<>/dev/userfaultfd; exec \(setpriv) --reuid=\(nobody) --regid=\(nobody) --clear-groups \"$@\"", "sh",
            ] + qemuArguments(["memory-backend-memfd,id=ram0,size=64M,share=on"]),
            environment: [
                "PAGEFERRY_HANDOFF": path, "PAGEFERRY_RAM": "memfd:memory-backend-memfd", "PAGEFERRY_USERFAULTFD_DEVICE": "9",
            ])
        do {
            let connection = try listener.accept(timeoutNanoseconds: 20 * seconds)
            #expect(connection.peer.userIdentifier == nobody)
            let regions = try connection.receiveRegions(timeoutNanoseconds: 20 * seconds)
            #expect(regions[0].lengthBytes == 64 << 20)
            try connection.acknowledge()
            #expect(poll(until: { sleepsInPoll(vmm.processIdentifier) || vmm.hasEnded }))
            #expect(!vmm.hasEnded, "\(vmm.output)")
        } catch {
            Issue.record("\(error); QEMU said: \(vmm.output)")
        }
    }

    @Test("Huge pages")
    func hugePages() throws {
        guard let reserve = HugePageReserve(count: 32) else { return }
        try handOver(
            ["memory-backend-memfd,id=ram0,size=64M,share=on,hugetlb=on,hugetlbsize=2M"],
            ["PAGEFERRY_RAM": "memfd:memory-backend-memfd"]
        ) { regions in
            #expect(regions.count == 1)
            #expect(regions[0].pageSize == .twoMiB)
            #expect(regions[0].pageCount == 32)
        }
        withExtendedLifetime(reserve) {}
    }

    @Test(
        "QEMU ends with one clear line when its memory is not served",
        arguments: [
            ("share=on", ["PAGEFERRY_RAM": "RAM"], "cannot reach the page daemon at"),
            ("share=off", ["PAGEFERRY_RAM": "RAM"], "add share=on"),
            ("share=on", [:], "set PAGEFERRY_RAM"),
            ("share=on", ["PAGEFERRY_RAM_MIN_BYTES": "64M"], "PAGEFERRY_RAM_MIN_BYTES='64M' is no number"),
        ])
    func notServed(share: String, environment: [String: String], text: String) throws {
        defer { unlink(ramPath) }
        var all = environment.mapValues { $0 == "RAM" ? ramPath : $0 }
        all["PAGEFERRY_HANDOFF"] = path
        let vmm = try startQEMU(["memory-backend-file,id=ram0,size=64M,mem-path=\(ramPath),\(share)"], environment: all)
        #expect(vmm.exitCode() == 71)
        #expect(vmm.output.hasPrefix("pageferry-preload: "))
        #expect(vmm.output.contains(text), "\(vmm.output)")
        #expect(vmm.output.split(separator: "\n").count == 1)
    }

    @Test("QEMU ends when the daemon refuses, goes away, or says nothing", arguments: 0..<3)
    func refused(way: Int) throws {
        defer { unlink(ramPath) }
        let listener = try HandoffListener(path: path)
        let vmm = try startQEMU(
            ["memory-backend-file,id=ram0,size=64M,mem-path=\(ramPath),share=on"],
            environment: ["PAGEFERRY_HANDOFF": path, "PAGEFERRY_RAM": ramPath, "PAGEFERRY_HANDOFF_TIMEOUT_SECONDS": "1"])
        do {
            let connection = try listener.accept(timeoutNanoseconds: 20 * seconds)
            if way == 2 {
                #expect(vmm.exitCode() == 71)
            } else {
                _ = try connection.receiveRegions(timeoutNanoseconds: 20 * seconds)
                if way == 0 { try connection.refuse("the source has 128 MiB") }
            }
        }
        #expect(vmm.exitCode() == 71)
        #expect(vmm.output.contains(["refused: the source has 128 MiB", "ended during the hand-off", "in time"][way]), "\(vmm.output)")
    }

    @Test("Another program's faults are served, a second mapping is refused, and its children inherit nothing")
    func anotherProgram() throws {
        let python = "/usr/bin/python3"
        guard PreloadedProcess.isExecutable(python) else { return }
        let created = open(ramPath, O_RDWR | O_CREAT | O_EXCL, 0o600)
        try #require(created >= 0)
        defer { unlink(ramPath) }
        #expect(ftruncate(created, 16 * 4096) == 0)
        close(created)
        let program = """
            import mmap, os, subprocess, sys
            f = open(sys.argv[1], 'r+b')
            m = mmap.mmap(f.fileno(), 0)
            print('byte', m[5 * 4096])
            try:
                mmap.mmap(f.fileno(), 0)
                print('second mapping')
            except OSError as error:
                print('refused', error.errno)
            print(subprocess.run(['/usr/bin/env'], capture_output=True, text=True).stdout, flush=True)
            """
        let listener = try HandoffListener(path: path)
        // Through a shell, which passes the environment on.
        let vmm = try PreloadedProcess(
            ["/bin/sh", "-c", "true; exec \(python) -c \"$0\" \"$1\"", program, ramPath],
            environment: ["PAGEFERRY_HANDOFF": path, "PAGEFERRY_RAM": ramPath, "KEPT": "yes"])
        let connection = try listener.accept(timeoutNanoseconds: 20 * seconds)
        let regions = try connection.receiveRegions(timeoutNanoseconds: 20 * seconds)
        #expect(regions[0].lengthBytes == 16 * 4096)
        try connection.acknowledge()
        guard let memory = try regions[0].mapFile() else {
            Issue.record("a shared region is mapped")
            return
        }
        var batch = UserfaultEventBatch()
        #expect(try regions[0].userfault.waitForEvents(timeoutMilliseconds: 20_000))
        try regions[0].userfault.readEvents(into: &batch)
        #expect(batch[0] == .pageFault(address: regions[0].address + 5 * 4096, access: []))
        memset(memory.pointer, 0x2a, memory.lengthBytes)
        let outcome = regions[0].userfault.continueRange(
            address: regions[0].address, lengthBytes: regions[0].lengthBytes, pageSize: .fourKiB)
        #expect(outcome == .installed)
        #expect(vmm.exitCode() == 0)
        let lines = vmm.output.split(separator: "\n")
        #expect(lines.starts(with: ["byte 42", "refused \(EBUSY)"]), "\(vmm.output)")
        #expect(lines.contains("KEPT=yes"))
        #expect(!lines.contains { $0.hasPrefix("LD_PRELOAD") || $0.hasPrefix("PAGEFERRY") }, "\(vmm.output)")
        #expect(try connection.waitForEnd(timeoutMilliseconds: 20_000))
        // Its memory has gone with it.
        let late = regions[0].userfault.continueRange(
            address: regions[0].address, lengthBytes: 4096, pageSize: .fourKiB)
        #expect(late == .vmmGone)
    }
}
