import Foundation
import Glibc
import PageCore
import TestSupport
import Testing

@testable import Handoff

@Suite(.leavesNothing, .enabled(if: qemuCanRun)) struct QemuInspectTests {
    /// Where the markers go: memory that the firmware leaves alone.
    private static let markerOffset = 16 << 20

    /// Writes each backend's id through the descriptor found for it, and reads it where the guest sees it: the nodes'
    /// order is that of `ids`.
    private func checkPlaces(_ source: QemuSource, _ backends: [QemuMemoryBackend], _ ids: [String], _ scratch: QemuScratch) throws {
        #expect(backends.map(\.name) == ids.sorted())
        for backend in backends {
            let writable = open("/proc/self/fd/\(backend.descriptor)", O_RDWR)
            try #require(writable >= 0)
            // hugetlbfs takes no pwrite.
            let memory = mmap(nil, backend.lengthBytes, PROT_READ | PROT_WRITE, MAP_SHARED, writable, off_t(backend.fileOffset))
            try #require(memory != MAP_FAILED)
            Array("marker-\(backend.name)".utf8).withUnsafeBytes { marker in
                (memory! + Self.markerOffset).copyMemory(from: marker.baseAddress!, byteCount: marker.count)
            }
            munmap(memory, backend.lengthBytes)
            close(writable)
        }
        var base = 0
        for id in ids {
            let backend = try #require(backends.first { $0.name == id })
            let marker = "marker-\(id)"
            let path = scratch.file("dump-\(id)")
            try source.client.execute(
                "pmemsave",
                ["val": .integer(base + Self.markerOffset), "size": .integer(marker.utf8.count), "filename": .string(path)])
            #expect(fileText(path) == marker)
            base += backend.lengthBytes
        }
        for backend in backends { close(backend.descriptor) }
    }

    private func inspect(_ arguments: [String], _ ids: [String], lengthBytes: Int) throws {
        let scratch = QemuScratch()
        let qemu = try RunningQemu(arguments, scratch)
        let source = try QemuSource(connectingTo: scratch.monitor)
        #expect(source.process == qemu.child.process)
        #expect(try source.version() >= QemuVersion(major: 7, minor: 2))
        #expect(try source.status() == QemuStatus(guest: "running", migration: "none"))
        let backends = try source.inspect()
        #expect(backends.map(\.lengthBytes) == ids.map { _ in lengthBytes })
        try checkPlaces(source, backends, ids, scratch)
    }

    private func refusal(_ arguments: [String]) throws -> QemuError? {
        let scratch = QemuScratch()
        let qemu = try RunningQemu(arguments, scratch)
        defer { withExtendedLifetime(qemu) {} }
        let source = try QemuSource(connectingTo: scratch.monitor)
        do throws(QemuError) {
            for backend in try source.inspect() { close(backend.descriptor) }
            return nil
        } catch {
            return error
        }
    }

    @Test func aFile() throws {
        let ram = QemuScratch()
        try inspect(RunningQemu.arguments([ram.fileBackend()]), ["ram"], lengthBytes: 64 << 20)
    }

    @Test func aMemfd() throws {
        try inspect(RunningQemu.arguments(["memory-backend-memfd,id=ram,size=64M"]), ["ram"], lengthBytes: 64 << 20)
    }

    @Test func hugePages() throws {
        guard let reserve = HugePageReserve(count: 32) else { return }
        try inspect(
            RunningQemu.arguments(["memory-backend-memfd,id=ram,size=64M,hugetlb=on,hugetlbsize=2M"]), ["ram"], lengthBytes: 64 << 20)
        _ = consume reserve
    }

    @Test func anUnnamedFileInADirectory() throws {
        let ram = QemuScratch()
        try inspect(RunningQemu.arguments([ram.fileBackend(path: ram.path)]), ["ram"], lengthBytes: 64 << 20)
    }

    /// Backends of one size and kind in both orders of creation: their mappings look alike, and lie in another order.
    @Test(arguments: ["file", "directory", "memfd"], [["node0", "node1"], ["b", "a"]])
    func twoNodes(_ kind: String, _ ids: [String]) throws {
        let ram = QemuScratch()
        let backends = ids.map { id in
            switch kind {
            case "file": ram.fileBackend(id, megabytes: 32)
            case "directory": ram.fileBackend(id, megabytes: 32, path: ram.path)
            default: "memory-backend-memfd,id=\(id),size=32M"
            }
        }
        try inspect(RunningQemu.arguments(backends), ids, lengthBytes: 32 << 20)
    }

    @Test func aPathThatMeansAnotherFileNow() throws {
        let ram = QemuScratch()
        let scratch = QemuScratch()
        let qemu = try RunningQemu(RunningQemu.arguments([ram.fileBackend()]), scratch)
        unlink(ram.file())
        #expect(FileManager.default.createFile(atPath: ram.file(), contents: nil))
        truncate(ram.file(), 64 << 20)
        let source = try QemuSource(connectingTo: scratch.monitor)
        try checkPlaces(source, try source.inspect(), ["ram"], scratch)
        withExtendedLifetime(qemu) {}
    }

    /// The way without privileges: QEMU's own descriptor in place of its mapping.
    @Test func byDescriptor() throws {
        let scratch = QemuScratch()
        let qemu = try RunningQemu(
            RunningQemu.arguments(["memory-backend-memfd,id=a,size=32M", "memory-backend-memfd,id=b,size=32M"]), scratch)
        let source = try QemuSource(connectingTo: scratch.monitor)
        let process = try #require(source.process)
        let runs = QemuMemory.runs(parsing: try #require(QemuMemory.readMaps(process)))
        let memfds = runs.filter { $0.path.hasPrefix("/memfd:memory-backend-memfd") }
        #expect(memfds.count == 2)
        for run in memfds {
            let descriptor = try QemuMemory(process: process).openByDescriptor(run, "ram")
            var status = stat()
            #expect(fstat(descriptor, &status) == 0 && "\(status.st_ino)" == run.inode)
            close(descriptor)
        }
        withExtendedLifetime(qemu) {}
    }

    @Test func whatCannotBeServedIsRefusedWithTheRemedy() throws {
        let ram = QemuScratch()
        let plain = [qemuProgram, "-nodefaults", "-display", "none", "-m", "64M", "-machine", "q35,accel=tcg"]
        #expect(try refusal(plain) == .noMemoryBackend)
        #expect(try refusal(plain + ["-object", ram.fileBackend()]) == .noMemoryBackend)
        let privately = ram.fileBackend().replacing("share=on", with: "share=off")
        #expect(try refusal(RunningQemu.arguments([privately])) == .notShared(backend: "ram"))
        #expect(
            try refusal(RunningQemu.arguments(["memory-backend-ram,id=ram,size=64M,share=on"]))
                == .unsupportedBackend(backend: "ram", type: "memory-backend-ram"))
        #expect(try refusal(RunningQemu.arguments([ram.fileBackend()], ["-S"])) == .notRunning(status: "prelaunch"))
        for error in [QemuError.noMemoryBackend, .notShared(backend: "ram")] {
            #expect(error.description.contains("share=on") && !error.description.contains("\n"))
        }
    }

    @Test func aSecondClientIsToldThatTheSocketIsTaken() throws {
        let ram = QemuScratch()
        let scratch = QemuScratch()
        let qemu = try RunningQemu(RunningQemu.arguments([ram.fileBackend()]), scratch)
        let first = try QemuSource(connectingTo: scratch.monitor)
        #expect(throws: QemuError.busy(path: scratch.monitor)) {
            try QMPClient(connectingTo: scratch.monitor, timeoutNanoseconds: 50_000_000)
        }
        #expect(try first.status().guest == "running")
        withExtendedLifetime(qemu) {}
    }

    @Test func theGuestMapIsRead() {
        let map = QemuGuestMap(
            parsing: """
                FlatView #1
                 AS "memory", root: system
                  0000000000000000-000000000009ffff (prio 0, ram): node0 KVM
                  00000000000a0000-00000000000affff (prio 2, ram): alias vga @0000000000000000
                  0000000000100000-00000000bfffffff (prio 0, ram): /objects/node1 @0000000000100000 KVM
                  00000000fec00000-00000000fec00fff (prio 0, i/o): kvm-ioapic
                 (prio 0, ram): broken
                """)
        #expect(map.entry(of: "node0") == .init(guestAddress: 0, backendOffset: 0))
        #expect(map.entry(of: "node1") == .init(guestAddress: 0x100000, backendOffset: 0x100000))
        #expect(map.entry(of: "broken") == nil && map.entry(of: "kvm-ioapic") == nil)
        #expect(QemuGuestMap.hostAddress(parsing: "Host virtual address for 0x0 (ram) is 0x7f32ebe00000\r\n") == 0x7f32_ebe0_0000)
        #expect(QemuGuestMap.hostAddress(parsing: "No memory is mapped at address 0x0") == nil)
        #expect(QemuGuestMap.hostAddress(parsing: "") == nil)
    }
}
