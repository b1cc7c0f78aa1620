/// What a machine of the demonstration's guest is made of, beside its kernel, its disk and its ports.
struct GuestShape: Sendable {
    /// The QEMU.
    var program = "qemu-system-x86_64"
    var processors = 2
    /// As QEMU's -m has it.
    var memory = "512M"
    /// More of -machine.
    var machineOptions: [String] = []
    /// RAM backends, devices and whatever else QEMU is to be told.
    var arguments: [String] = []
    /// Of the form KEY=VALUE: what perf/guest/init takes.
    var kernelArguments: [String] = []

    /// What QEMU does by default.
    static let anonymous = GuestShape()

    /// RAM of one backend.
    ///
    /// - Parameter backend: its type, and options beside its name and size.
    static func backend(_ backend: String, memory: String = "512M") -> GuestShape {
        GuestShape(
            memory: memory, machineOptions: ["memory-backend=ram"], arguments: ["-object", "\(backend),id=ram,size=\(memory)"])
    }

    /// RAM in a file on tmpfs, shared.
    static func file(_ path: String, memory: String = "512M") -> GuestShape {
        .backend("memory-backend-file,mem-path=\(path),share=on", memory: memory)
    }
}
