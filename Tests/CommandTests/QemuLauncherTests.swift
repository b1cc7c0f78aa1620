import Foundation
import Glibc
import Handoff
import TestSupport
import Testing

@testable import Demonstration

/// QEMUs that are not root's, or not ours.
@Suite(.leavesNothing, .serialized, .enabled(if: Built.canMoveGuest)) struct QemuLauncherTests {
    private static let nobody: UInt32 = 65534

    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// A guest of 192 MiB in a memfd.
    private var shape: GuestShape {
        var shape = GuestShape.backend("memory-backend-memfd,share=on", memory: "192M")
        shape.kernelArguments = ["workload_mib=64"]
        return shape
    }

    /// QEMU gives up root before it starts, and may open no userfaultfd: it inherits the device, and hands its memory over as a stranger.
    @Test func anotherUsersQemu() throws {
        guard geteuid() == 0, access("/dev/userfaultfd", R_OK | W_OK) == 0 else {
            return print("skipped: another user's QEMU needs root and /dev/userfaultfd here")
        }
        // Theirs to read, wherever this repository lies.
        try FileManager.default.copyItem(atPath: Built.guest, toPath: scratch.file("guest"))
        chmod(scratch.path, 0o777)
        let guest = try MovedGuest(scratch, source: shape, destination: shape, image: scratch.file("guest"))
        try guest.waitUntilItWorks()
        let daemon = try guest.move(
            ["--handoff-owner", "\(Self.nobody)"],
            launcher: ["setpriv", "--reuid=\(Self.nobody)", "--regid=\(Self.nobody)", "--clear-groups", "--no-new-privs"])
        #expect(daemon.says("the guest runs here"), "\(daemon.errorOutput)")
        let qemu = try #require(
            Scratch.processes(naming: "guest=destination").first { process in
                fileText("/proc/\(process)/comm")?.hasPrefix("qemu") == true
            })
        #expect(fileText("/proc/\(qemu)/status")?.contains("Uid:\t\(Self.nobody)\t\(Self.nobody)\t\(Self.nobody)") == true)
        try guest.expectWhole(daemon)
    }

    /// Without the device it says what is missing, and the guest stays where it is.
    @Test func anotherUserWithoutADevice() throws {
        guard geteuid() == 0, fileText("/proc/sys/vm/unprivileged_userfaultfd")?.hasPrefix("0") == true else {
            return print("skipped: needs root, and vm.unprivileged_userfaultfd=0")
        }
        chmod(scratch.path, 0o777)
        let qemu = try scratch.start(scratch.machine("source"), qmp: "source")
        let source = try scratch.source()
        let destination = try Program.pageferry(
            [
                "destination", "--connect", try source.address(), "--handoff-owner", "\(Self.nobody)", "--", "env", "-u",
                "PAGEFERRY_USERFAULTFD_DEVICE", "setpriv", "--reuid=\(Self.nobody)", "--regid=\(Self.nobody)", "--clear-groups",
            ] + scratch.machine("destination"), in: scratch)
        expectFailure(of: destination, code: 70, says: ["may not open a userfaultfd", "PAGEFERRY_USERFAULTFD_DEVICE"])
        #expect(source.says("refused"))
        source.signal(SIGTERM)
        #expect(source.exitCode() == 0)
        #expect(try scratch.status("source") == "running")
        qemu.end()
        // A QEMU that is ended by its preload library removes no sockets of its own.
        scratch.expectNothingLeft(except: ["source.qmp", "destination.qmp"])
    }

    /// Somebody else starts QEMU through the wrapper that is installed as an example; its machine goes on when the daemon has ended.
    @Test func somebodyElsesQemu() throws {
        let guest = try MovedGuest(scratch, source: shape, destination: shape)
        try guest.waitUntilItWorks()
        let directory = scratch.file("run")
        mkdir(directory, 0o700)
        let (daemon, qemu) = try guest.move(
            toQemuStartedBy: [Self.wrapper], handoff: "\(directory)/destination.handoff", monitor: "\(directory)/destination.qmp",
            environment: ["PAGEFERRY_DIRECTORY": directory, "PAGEFERRY_PROGRAM": Built.pageferry])
        try guest.expectWhole(daemon)
        // It has powered off.
        #expect(qemu.exitCode() == 0, "\(qemu.errorOutput)")
    }

    private static let wrapper = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()
        .appending(path: "Examples/qemu/qemu-emulator").path
}
