import Glibc
import PageCore

/// One QEMU that runs, or will take over, the demonstration's guest.
final class GuestMachine {
    /// The number under which QEMU inherits the workload's serial port.
    private static let portDescriptor: Int32 = 96

    let port: LineChannel
    let arguments: [String]
    let processors: Int

    /// - Parameter consolePath: where the kernel's console goes.
    init(_ image: GuestImage, shape: GuestShape, consolePath: String, extra: [String]) throws(DemonstrationError) {
        port = try LineChannel()
        processors = shape.processors
        let machine = (["q35", "accel=tcg"] + shape.machineOptions).joined(separator: ",")
        let kernelArguments =
            ["console=ttyS0", "quiet", "panic=-1", "mitigations=off", "tsc=reliable", "no_timer_check"] + shape.kernelArguments
        // These processor flags save emulation the work that means nothing to this guest.
        arguments =
            [
                // Threads with names: what vCPUs use is no part of a migration's cost.
                shape.program, "-name", "guest,debug-threads=on", "-machine", machine, "-cpu", "max,-la57", "-smp", "\(shape.processors)",
                "-m", shape.memory,
            ] + shape.arguments + [
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-serial", "file:\(consolePath)",
                "-chardev", "socket,id=port,fd=\(Self.portDescriptor)", "-serial", "chardev:port",
                "-drive", "file=\(image.disk),if=none,id=disk,format=raw,readonly=on,file.locking=off",
                "-device", "virtio-blk-pci,drive=disk",
                "-kernel", image.kernel, "-initrd", image.initramfs,
                "-append", kernelArguments.joined(separator: " "),
            ] + extra
    }

    /// What a process that starts this machine must inherit.
    var inherited: [Int32: Int32] { [Self.portDescriptor: port.theirs] }

    /// Starts QEMU directly.
    ///
    /// - Parameter prefix: a command that starts it elsewhere, in a network namespace say.
    func start(environment: [String: String] = [:], prefix: [String] = []) throws(DemonstrationError) -> ChildProcess {
        let process = try ChildProcess(prefix + arguments, inheriting: inherited, environment: environment)
        port.start()
        return process
    }

    /// The port's lines as the guest's log.
    ///
    /// - Parameter unfinished: what the guest had written of a line on the host it came from; its port sends byte by byte, and the
    ///   rest comes here.
    func log(continuing unfinished: String = "") -> GuestLog {
        var log = GuestLog()
        for (number, line) in port.all.enumerated() {
            log.read(number == 0 ? unfinished + line.text : line.text, arrivedNanoseconds: line.arrivedNanoseconds)
        }
        return log
    }

    /// Waits until the guest has ticked `count` times since `from`.
    func waitForTicks(_ count: Int, since from: Int = 0, timeoutNanoseconds: UInt64 = 60_000_000_000) throws(DemonstrationError) {
        let seen = port.wait(timeoutNanoseconds: timeoutNanoseconds) { line in
            let words = line.text.split(separator: " ")
            return words.count == 4 && words[0] == "T" && (Int(words[1]) ?? 0) >= from + count
        }
        guard seen != nil else {
            throw DemonstrationError("the guest did not tick \(count) times in \(timeoutNanoseconds / 1_000_000_000) s")
        }
    }

    /// Asks the guest for its verdict and waits for it.
    func stopGuest() throws(DemonstrationError) {
        port.send("STOP\n")
        guard port.wait(timeoutNanoseconds: 30_000_000_000, { $0.text.hasPrefix("DONE") }) != nil else {
            throw DemonstrationError("the guest gave no verdict in 30 s")
        }
    }
}

/// The guest's life around a migration, the same for every system that moves it.
struct GuestSchedule: Sendable {
    /// Ticks before the migration: the workload has touched all its memory several times over.
    var ticksBefore = 300
    /// Ticks after the source is gone.
    var ticksAfter = 300

    /// Lets the guest go on without its source, then hears its verdict.
    func finish(_ destination: GuestMachine) throws(DemonstrationError) {
        let reached = destination.log().ticks.last?.number ?? 0
        try destination.waitForTicks(ticksAfter, since: reached)
        try destination.stopGuest()
    }
}
