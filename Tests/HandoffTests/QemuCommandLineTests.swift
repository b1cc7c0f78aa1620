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

    @Test func patternsAndOrderOfTheBackends() throws {
        let line = try QemuCommandLine([
            "qemu", "-object", "rng-random,id=rng", "-object", "memory-backend-file,id=b,size=1G,mem-path=/x,,y,share=on",
            "--object", #"{"qom-type": "memory-backend-file", "id": "c", "size": 1, "mem-path": "/z", "share": true}"#,
            "-object", "memory-backend-memfd,id=a,size=1G",
        ])
        #expect(line.backendNames == ["b", "c", "a"])
        #expect(line.memoryPatterns == ["/x,y", "/z", "memfd:memory-backend-memfd"])
        #expect(line.regionOrder == [2, 0, 1])
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

    @Test func valuesThatLookLikeOptionsAreLeftAlone() throws {
        _ = try QemuCommandLine(["qemu", "-object", Self.file, "-name", "incoming", "-overcommit", "mem-lock=off", "-S"])
    }
}
