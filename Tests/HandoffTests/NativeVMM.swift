import Glibc
import Testing

@testable import Handoff

/// A child process with the preload library in it, killed at the end of its life. Its output goes to a file.
final class PreloadedProcess {
    let processIdentifier: Int32
    private let outputPath: String
    private var exitStatus: Int32?

    /// The library, beside the tests' own executable.
    static let library: String = {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        let path = String(decoding: buffer[..<max(count, 0)].map(UInt8.init(bitPattern:)), as: UTF8.self)
        return path.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/libpageferry-preload.so"
    }()

    static func isExecutable(_ path: String) -> Bool {
        if access(path, X_OK) == 0, access(library, R_OK) == 0 { return true }
        print("skipped: '\(path)' or '\(library)' is missing; install the one, build the other")
        return false
    }

    init(_ arguments: [String], environment: [String: String]) throws {
        outputPath = "/tmp/pageferry-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max)).out"
        var all = environment
        all["LD_PRELOAD"] = Self.library
        all["PATH"] = "/usr/bin:/bin"
        var argumentPointers = arguments.map { strdup($0) } + [nil]
        var environmentPointers = all.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { (argumentPointers + environmentPointers).forEach { free($0) } }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, outputPath, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var process: pid_t = 0
        let code = posix_spawn(&process, arguments[0], &actions, nil, &argumentPointers, &environmentPointers)
        try #require(code == 0)
        processIdentifier = process
    }

    deinit {
        if exitStatus == nil {
            kill(processIdentifier, SIGKILL)
            var status: Int32 = 0
            waitpid(processIdentifier, &status, 0)
        }
        unlink(outputPath)
    }

    /// What it has printed.
    var output: String {
        let file = open(outputPath, O_RDONLY)
        guard file >= 0 else { return "" }
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = read(file, &bytes, bytes.count)
        return String(decoding: bytes[..<max(count, 0)], as: UTF8.self)
    }

    /// Waits for its end, at most twenty seconds: its exit code, or nil when it goes on or was killed.
    func exitCode() -> Int32? {
        _ = poll(until: { hasEnded })
        guard let exitStatus, exitStatus & 0x7f == 0 else { return nil }
        return (exitStatus >> 8) & 0xff
    }

    var hasEnded: Bool {
        if exitStatus != nil { return true }
        var status: Int32 = 0
        if waitpid(processIdentifier, &status, WNOHANG) == processIdentifier { exitStatus = status }
        return exitStatus != nil
    }
}

/// QEMU on guest RAM of `backends`, which waits for an incoming migration.
func startQEMU(_ backends: [String], environment: [String: String]) throws -> PreloadedProcess {
    try PreloadedProcess(qemuArguments(backends), environment: environment)
}

func qemuArguments(_ backends: [String]) -> [String] {
    var arguments = ["/usr/bin/qemu-system-x86_64", "-nodefaults", "-display", "none", "-S", "-incoming", "defer"]
    for backend in backends { arguments += ["-object", backend] }
    if backends.count == 1 {
        arguments += ["-machine", "q35,accel=tcg,memory-backend=ram0", "-m", "64M"]
    } else {
        arguments += ["-machine", "q35,accel=tcg", "-m", "\(64 * backends.count)M"]
        for index in backends.indices { arguments += ["-numa", "node,memdev=ram\(index)"] }
    }
    return arguments
}

let qemuIsInstalled = PreloadedProcess.isExecutable("/usr/bin/qemu-system-x86_64")
