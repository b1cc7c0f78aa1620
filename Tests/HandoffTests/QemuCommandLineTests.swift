import TestSupport
import Testing

@testable import Handoff

@Suite(.leavesNothing) struct QemuCommandLineTests {
    static let file = "memory-backend-file,id=ram,size=1G,mem-path=/dev/shm/a,share=on"

    private func error(_ arguments: String...) -> QemuError? {
        do throws(QemuError) {
            _ = try QemuCommandLine(["qemu"] + arguments)
            return nil
        } catch {
            return error
        }
    }

    @Test func patternsOfTheBackends() throws {
        let line = try QemuCommandLine([
            "qemu", "-object", "rng-random,id=rng", "-object", "memory-backend-file,id=b,size=1G,mem-path=/x,,y,share=on",
            "--object", #"{"qom-type": "memory-backend-file", "id": "c", "size": 1, "mem-path": "/z", "share": true}"#,
            "-object", "memory-backend-memfd,id=a,size=1G",
        ])
        #expect(line.backendNames == ["b", "c", "a"])
        #expect(line.memoryPatterns == ["/x,y", "/z", "memfd:memory-backend-memfd"])
        #expect(line.incoming(monitor: 9).suffix(3) == ["-incoming", "defer", "-S"])
    }

    @Test func whatCannotBeTakenOverIsRefused() {
        #expect(error() == .noMemoryBackend)
        #expect(error("-m", "1G") == .noMemoryBackend)
        #expect(error("-object", "memory-backend-file,id=ram,size=1G,mem-path=/dev/shm/a") == .notShared(backend: "ram"))
        #expect(error("-object", "memory-backend-memfd,id=ram,size=1G,share=off") == .notShared(backend: "ram"))
        #expect(
            error("-object", "memory-backend-ram,id=ram,size=1G,share=on")
                == .unsupportedBackend(backend: "ram", type: "memory-backend-ram"))
    }

    @Test(arguments: [
        ["-incoming", "defer", "-object", file], ["--incoming", "defer", "-object", file], ["-object", file, "-daemonize"],
        ["-object", file, "-mem-prealloc"], ["-object", file + ",prealloc=on"],
        ["-object", "memory-backend-memfd,id=ram,size=1G,prealloc=on"], ["-object", file, "-overcommit", "mem-lock=on"],
        ["-object"], ["-object", "memory-backend-file,id=ram,size=1G,share=on"], ["-object", "memory-backend-memfd,size=1G"],
        ["-object", "memory-backend-file,id=ram,size=1G,mem-path=/a:b,share=on"],
    ])
    func whatWouldHangOrMisleadIsRefused(_ arguments: [String]) {
        do throws(QemuError) {
            _ = try QemuCommandLine(["qemu"] + arguments)
            Issue.record("it was accepted")
        } catch {
            guard case .unusableCommand(let reason) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(!reason.contains("\n"))
        }
    }

    /// What somebody else starts waits for its migration by itself.
    @Test func launchedLinesMayBeIncoming() throws {
        let arguments = ["qemu", "-object", Self.file, "-incoming", "defer"]
        #expect(QemuCommandLine.isIncoming(arguments) && !QemuCommandLine.isIncoming(["qemu", "-name", "incoming"]))
        let line = try QemuCommandLine(arguments, isLaunched: true)
        let added = try line.preloadEnvironment(preloadLibrary: "/proc/self/exe", handoffPath: "/run/h", userfaultDevice: 7)
        #expect(added["PAGEFERRY_RAM"] == "/dev/shm/a" && added["PAGEFERRY_RAM_COUNT"] == "1" && added["PAGEFERRY_HANDOFF"] == "/run/h")
        #expect(added["PAGEFERRY_USERFAULTFD_DEVICE"] == "7" && added["LD_PRELOAD"]?.hasPrefix("/proc/self/exe") == true)
    }

    @Test func valuesThatLookLikeOptionsAreLeftAlone() throws {
        _ = try QemuCommandLine(["qemu", "-object", Self.file, "-name", "incoming", "-overcommit", "mem-lock=off", "-S"])
    }
}
