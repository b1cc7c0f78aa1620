import Glibc
import Handoff
import Testing

/// Machines of 64 MiB of firmware's guest, whose names and sockets are in a test's directory.
extension Scratch {
    /// A QEMU command; its name holds the scratch directory, by which what is left of it is found.
    func machine(
        _ name: String, megabytes: Int = 64, backend: String = "memory-backend-memfd,share=on", extra: [String] = []
    ) -> [String] {
        [
            "qemu-system-x86_64", "-name", file(name), "-nodefaults", "-no-user-config", "-display", "none", "-machine",
            "q35,accel=tcg,memory-backend=ram", "-m", "\(megabytes)", "-object", "\(backend),id=ram,size=\(megabytes)M",
            "-qmp", "unix:\(file(name)).qmp,server=on,wait=off",
        ] + extra
    }

    /// Starts a machine and waits until it runs.
    func start(_ arguments: [String], qmp name: String) throws -> Program {
        let program = try Program(arguments, in: self)
        try #require(poll(until: { (try? self.status(name)) == "running" || !program.isRunning }), "\(program.errorOutput)")
        try #require(program.isRunning, "\(program.errorOutput)")
        return program
    }

    func status(_ name: String) throws -> String? {
        try QMPClient(connectingTo: "\(file(name)).qmp").execute("query-status")["status"]?.string
    }

    func source(_ options: [String] = []) throws -> Program {
        try .pageferry(["source", "--qmp", "\(file("source")).qmp", "--listen", "127.0.0.1:0"] + options, in: self)
    }
}
