import Foundation
import Glibc
import Handoff
import TestSupport
import Testing

@testable import Demonstration

/// The machines people have: several RAM backends, huge pages, plugged memory, balloons, sandboxes. Each moves a guest that counts
/// its own errors.
@Suite(.leavesNothing, .serialized, .enabled(if: Built.canMoveGuest)) struct QemuSetUpTests {
    private static let sandbox = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]

    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// Eight processors on two nodes, each with a memory file of its own, the second one's listed first at the destination, in a sandbox.
    @Test func nodesAndProcessorsInASandbox() throws {
        let files = ["source0", "source1", "destination0", "destination1"].map { MemoryBackingFile($0) }
        func shape(_ files: ArraySlice<MemoryBackingFile>, _ order: [Int]) -> GuestShape {
            let backends = order.flatMap {
                ["-object", "memory-backend-file,id=node\($0),size=128M,mem-path=\(files[files.startIndex + $0].path),share=on"]
            }
            let nodes = (0...1).flatMap { ["-numa", "node,nodeid=\($0),memdev=node\($0),cpus=\($0 * 4)-\($0 * 4 + 3)"] }
            return GuestShape(
                processors: 8, memory: "256M", arguments: backends + nodes + Self.sandbox,
                kernelArguments: ["workload_mib=128", "workload_threads=8"])
        }
        let guest = try MovedGuest(scratch, source: shape(files[0...1], [0, 1]), destination: shape(files[2...3], [1, 0]))
        try guest.waitUntilItWorks()
        let daemon = try guest.move()
        try guest.expectWhole(daemon)
        withExtendedLifetime(files) {}
    }

    /// One processor; a memfd of huge pages becomes a file on hugetlbfs.
    @Test func hugePages() throws {
        guard let reserve = HugePageReserve(count: 2 * 144), let huge = HugePageDirectory(in: scratch) else { return }
        func shape(_ backend: String) -> GuestShape {
            var shape = GuestShape.backend(backend, memory: "288M")
            shape.processors = 1
            shape.kernelArguments = ["workload_mib=128", "workload_threads=1"]
            return shape
        }
        let guest = try MovedGuest(
            scratch, source: shape("memory-backend-memfd,share=on,hugetlb=on,hugetlbsize=2M"),
            destination: shape("memory-backend-file,share=on,mem-path=\(huge.path)"))
        try guest.waitUntilItWorks()
        let daemon = try guest.move()
        try guest.expectWhole(daemon)
        let report = try Data(contentsOf: URL(filePath: scratch.file("destination.json")))
        let fields = try #require(JSONSerialization.jsonObject(with: report) as? [String: Any])
        #expect(fields["totalPages"] as? Int == 144, "they moved as huge pages")
        withExtendedLifetime(reserve) {}
        withExtendedLifetime(huge) {}
    }

    /// Memory plugged in while the guest runs, which its work needs; the destination's machine has it from the start.
    @Test func pluggedMemory() throws {
        let files = ["source", "source.plugged", "destination", "destination.plugged"].map { MemoryBackingFile($0) }
        func shape(_ file: MemoryBackingFile) -> GuestShape {
            var shape = GuestShape.file(file.path, memory: "256M")
            shape.memory = "256M,slots=2,maxmem=1G"
            shape.kernelArguments = ["memhp_default_state=online", "least_memory_mib=400", "workload_mib=256"]
            return shape
        }
        var destination = shape(files[2])
        destination.arguments += [
            "-object", "memory-backend-file,id=plugged,size=256M,mem-path=\(files[3].path),share=on", "-device",
            "pc-dimm,id=dimm,memdev=plugged",
        ]
        let guest = try MovedGuest(scratch, source: shape(files[0]), destination: destination)
        try guest.waitFor("WAITING")
        do {
            let monitor = try guest.monitor("source")
            try monitor.execute(
                "object-add",
                [
                    "qom-type": "memory-backend-file", "id": "plugged", "size": .integer(256 << 20), "share": true,
                    "mem-path": .string(files[1].path),
                ])
            try monitor.execute("device_add", ["driver": "pc-dimm", "id": "dimm", "memdev": "plugged"])
        }
        try guest.waitUntilItWorks()
        let daemon = try guest.move()
        try guest.expectWhole(daemon)
        withExtendedLifetime(files) {}
    }

    /// The balloon is inflated and deflated while pages are missing, and the guest uses what it got back. Its kernel does not
    /// clear pages it takes: those of the balloon are given up while they are missing.
    @Test(arguments: ["", ",hugetlb=on,hugetlbsize=2M"]) func balloon(_ hugePages: String) throws {
        var reserve: HugePageReserve?
        if !hugePages.isEmpty {
            reserve = HugePageReserve(count: 2 * 160 + 32)
            if reserve == nil { return }
        }
        var shape = GuestShape.backend("memory-backend-memfd,share=on\(hugePages)", memory: "320M")
        shape.arguments += ["-device", "virtio-balloon-pci,id=balloon"]
        shape.kernelArguments = ["workload_mib=64", "workload_churn_mib=16", "init_on_alloc=0"]
        let guest = try MovedGuest(scratch, source: shape, destination: shape)
        try guest.waitUntilItWorks()
        // Without a push pages are missing until the end.
        let daemon = try guest.move(["--no-push"])
        #expect(daemon.says("the guest runs here"), "\(daemon.errorOutput)")
        // Huge pages come one by one, each whole.
        for _ in 0..<(hugePages.isEmpty ? 2 : 1) {
            for mebibytes in [304, 320] {
                let monitor = try guest.monitor("destination")
                try monitor.execute("balloon", ["value": .integer(mebibytes << 20)], timeoutNanoseconds: 60 * seconds)
                let isThere = poll(until: {
                    let answer = try? monitor.execute("query-balloon", timeoutNanoseconds: 60 * seconds)["actual"]?.integer
                    return answer == mebibytes << 20 || !daemon.isRunning
                })
                #expect(isThere && daemon.isRunning, "the balloon leaves \(mebibytes) MiB: \(daemon.errorOutput)")
            }
        }
        try guest.expectCorrect()
        // It lasts as long as its guest.
        #expect(daemon.exitCode() != nil)
        let report = try Data(contentsOf: URL(filePath: scratch.file("destination.json")))
        let fields = try #require(JSONSerialization.jsonObject(with: report) as? [String: Any])
        #expect(fields["missingPages"] as? Int ?? 0 > 0, "pages were missing all the time")
        if hugePages.isEmpty { #expect(fields["removedPages"] as? Int ?? 0 > 0, "missing pages were given up") }
        guest.endSource()
        scratch.expectNothingLeft(except: ["source.qmp"])
        withExtendedLifetime(reserve.take()) {}
    }
}

/// A file system of huge pages, mounted for one test.
struct HugePageDirectory: ~Copyable {
    let path: String

    /// Nil, with a printed reason, when none can be mounted.
    init?(in scratch: Scratch) {
        path = scratch.file("huge")
        guard mkdir(path, 0o700) == 0, mount("none", path, "hugetlbfs", 0, "pagesize=2M") == 0 else {
            print("skipped: no hugetlbfs can be mounted here; run as root")
            return nil
        }
    }

    deinit {
        _ = umount2(path, Int32(MNT_DETACH))
        rmdir(path)
    }
}
