import Foundation
import Glibc
import TestSupport
import Testing

let seconds: UInt64 = 1_000_000_000

/// Polls `condition` for a minute at most: slow hosts take long, and none of these waits is a measurement.
func poll(until condition: () -> Bool) -> Bool {
    for _ in 0..<12_000 {
        if condition() { return true }
        _ = Glibc.poll(nil, 0, 5)
    }
    return condition()
}

/// What was built beside the tests.
enum Built {
    static let directory = URL(filePath: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "/")
        .deletingLastPathComponent().path
    static let pageferry = "\(directory)/pageferry"

    /// Whether everything a migration needs is here; prints what is missing.
    static let canMigrate = has(
        [pageferry, "\(directory)/libpageferry-preload.so", "/usr/bin/qemu-system-x86_64"],
        orElse: "build everything with `swift build --build-tests`, and install QEMU")

    /// What perf/guest/make-guest has made.
    static let guest = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "perf/guest/out").path

    /// Whether a guest that counts its own errors can be moved.
    static let canMoveGuest =
        canMigrate && has(["kernel", "initramfs", "disk"].map { "\(guest)/\($0)" }, orElse: "run perf/guest/make-guest")

    private static func has(_ needed: [String], orElse remedy: String) -> Bool {
        for path in needed where access(path, X_OK) != 0 && access(path, R_OK) != 0 {
            print("skipped: there is no \(path); \(remedy)")
            return false
        }
        return true
    }
}

/// A directory of one test, for its sockets and files; gone with the test. Its unique name finds what the test left behind.
final class Scratch: Sendable {
    let path: String
    private let directoriesBefore: Set<String>

    init() throws {
        var template = Array("/tmp/pf-command-test.XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        directoriesBefore = Self.handoffDirectories()
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func file(_ name: String) -> String { "\(path)/\(name)" }

    /// A file of `bytes` bytes, which are a pattern.
    func memoryFile(_ name: String = "memory", bytes: Int = 1 << 20) throws -> String {
        let path = file(name)
        // Byte i is i * 31 + i / 4096: a page differs from the one before it by one in every byte, and there are 256 of them.
        let pages = (0..<256).map { page in Data((0..<4096).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ page) }) }
        var content = Data(capacity: bytes + 4096)
        for page in 0..<(bytes + 4095) / 4096 { content += pages[page & 255] }
        content.removeLast(content.count - bytes)
        try content.write(to: URL(filePath: path))
        return path
    }

    /// Nothing is left of what the test started: no process, no hand-off directory, nothing in /dev/shm, and of sockets
    /// only those the test made itself.
    func expectNothingLeft(except own: Set<String> = [], location: SourceLocation = #_sourceLocation) {
        let name = path
        #expect(poll(until: { Self.processes(naming: name).isEmpty }), "processes run on", sourceLocation: location)
        // Other programs on this host may make theirs meanwhile: those have somebody listening.
        let before = directoriesBefore
        let isClean = poll(until: { Self.handoffDirectories().subtracting(before).allSatisfy(Self.isInUse) })
        #expect(isClean, "a hand-off directory was left in /tmp", sourceLocation: location)
        let sockets = ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).filter { entry in
            var status = stat()
            return stat(file(entry), &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
        }
        #expect(Set(sockets).subtracting(own) == [], "sockets were left", sourceLocation: location)
        let unique = URL(filePath: path).lastPathComponent
        let shared = (try? FileManager.default.contentsOfDirectory(atPath: "/dev/shm")) ?? []
        #expect(!shared.contains { $0.contains(unique) }, "memory was left in /dev/shm", sourceLocation: location)
    }

    private static func handoffDirectories() -> Set<String> {
        Set(((try? FileManager.default.contentsOfDirectory(atPath: "/tmp")) ?? []).filter { $0.hasPrefix("pageferry.") })
    }

    private static func isInUse(_ directory: String) -> Bool {
        // proc(5): unix sockets of this network namespace, with their paths.
        let sockets = fileText("/proc/net/unix") ?? ""
        return sockets.contains("/tmp/\(directory)/")
    }

    /// Processes, not yet reaped ones excluded, whose command line has `text`.
    static func processes(naming text: String) -> [pid_t] {
        let all = ((try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []).compactMap { pid_t($0) }
        return all.filter { process in
            guard let line = fileContents("/proc/\(process)/cmdline") else { return false }
            return process != getpid() && String(decoding: line, as: UTF8.self).contains(text)
        }
    }
}

/// A program started by a test; ended, by its id, at the latest with this value.
final class Program {
    let process: pid_t
    private let outputPath: String
    private var code: Int32?

    /// - Parameters:
    ///   - environment: what it gets beside ours.
    ///   - standardOutput: the file that takes it.
    ///   - inheriting: descriptors of ours, by the numbers they have in it.
    init(
        _ arguments: [String], in scratch: Scratch, environment: [String: String] = [:], standardOutput: String = "/dev/null",
        inheriting: [Int32: Int32] = [:]
    ) throws {
        outputPath = scratch.file("output.\(UInt32.random(in: 0 ... .max))")
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, standardOutput, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_addopen(&actions, 2, outputPath, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        for (number, descriptor) in inheriting { posix_spawn_file_actions_adddup2(&actions, descriptor, number) }
        var argumentVector = arguments.map { strdup($0) } + [nil]
        defer { for argument in argumentVector { free(argument) } }
        let variables = ProcessInfo.processInfo.environment.merging(environment) { _, given in given }
        var environmentVector = variables.map { strdup("\($0.key)=\($0.value)") } + [nil]
        defer { for variable in environmentVector { free(variable) } }
        // The threads of tests block signals, and a program inherits that.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var child: pid_t = 0
        let status = posix_spawnp(&child, arguments[0], &actions, &attributes, &argumentVector, &environmentVector)
        try #require(status == 0, "\(arguments[0]) starts")
        process = child
    }

    /// pageferry itself.
    static func pageferry(
        _ arguments: [String], in scratch: Scratch, environment: [String: String] = [:], inheriting: [Int32: Int32] = [:]
    ) throws -> Program {
        try Program([Built.pageferry] + arguments, in: scratch, environment: environment, inheriting: inheriting)
    }

    deinit { end() }

    /// What it wrote to standard error so far.
    var errorOutput: String { fileText(outputPath) ?? "" }

    var isRunning: Bool { reap(WNOHANG) == nil }

    func end() {
        guard reap(WNOHANG) == nil else { return }
        kill(process, SIGKILL)
        _ = reap(0)
    }

    func signal(_ number: Int32) { kill(process, number) }

    /// Its exit code, or 128 and the signal that ended it; nil when it still runs after a minute.
    func exitCode() -> Int32? {
        _ = poll(until: { reap(WNOHANG) != nil })
        return code
    }

    /// Waits until it has said something.
    func says(_ text: String) -> Bool { poll(until: { errorOutput.contains(text) || !isRunning }) && errorOutput.contains(text) }

    /// Waits longer than for an answer.
    func says(_ text: String, withinNanoseconds: UInt64) -> Bool {
        for _ in 0...(withinNanoseconds / (60 * seconds)) where isRunning {
            if says(text) { return true }
        }
        return says(text)
    }

    /// The address at the end of its "… on ADDRESS" line.
    func address() throws -> String {
        try #require(says(" on "), "it listens: \(errorOutput)")
        var found: String?
        _ = poll(until: {
            // The line is whole once its end is there.
            guard
                let line = errorOutput.split(separator: "\n", omittingEmptySubsequences: false).dropLast().first(where: {
                    $0.contains(" on ")
                })
            else { return false }
            found = line.split(separator: " ").last.map(String.init)
            return true
        })
        return try #require(found)
    }

    private func reap(_ options: Int32) -> Int32? {
        if let code { return code }
        var status: Int32 = 0
        guard waitpid(process, &status, options) == process else { return nil }
        code = status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
        return code
    }
}

/// Runs pageferry, and expects it to refuse: one error line that says all of `texts`, and the exit code.
func expectRefusal(
    _ arguments: [String], code: Int32, says texts: [String], in scratch: Scratch, own: Set<String> = [],
    location: SourceLocation = #_sourceLocation
) throws {
    let program = try Program.pageferry(arguments, in: scratch)
    expectFailure(of: program, code: code, says: texts, location: location)
    scratch.expectNothingLeft(except: own, location: location)
}

/// Expects a program to end with one error line that says all of `texts`, and the exit code.
func expectFailure(of program: Program, code: Int32, says texts: [String], location: SourceLocation = #_sourceLocation) {
    #expect(program.exitCode() == code, "\(program.errorOutput)", sourceLocation: location)
    let output = program.errorOutput
    let errors = output.split(separator: "\n").filter {
        $0.lowercased().contains("error:") && $0.lowercased().hasPrefix("pageferry: error:") || $0.hasPrefix("Error:")
    }
    #expect(errors.count == 1, "one error line: \(output)", sourceLocation: location)
    for text in texts {
        #expect(errors.first?.contains(text) == true, "the error says \"\(text)\": \(output)", sourceLocation: location)
    }
}
