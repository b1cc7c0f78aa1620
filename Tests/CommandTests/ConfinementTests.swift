import Foundation
import Glibc
import TestSupport
import Testing

/// The filter as a process under it meets it.
@Suite(.leavesNothing, .serialized) struct ConfinementTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    @Test func whatADaemonDoesNotNeedIsRefused() throws {
        let output = scratch.file("answers")
        let probe = try Program(["\(Built.directory)/ConfinementProbe"], in: scratch, standardOutput: output)
        #expect(probe.exitCode() == 0, "\(probe.errorOutput)")
        let text = fileText(output) ?? ""
        let answers = Dictionary(
            uniqueKeysWithValues: text.split(separator: "\n").compactMap { line -> (String, Int32)? in
                guard let space = line.lastIndex(of: " "), let code = Int32(line[line.index(after: space)...]) else { return nil }
                return (String(line[..<space]), code)
            })
        if answers["sanitized"] != nil {
            print("skipped: the filter of system calls; under a sanitizer there is none")
            return
        }
        for refused in [
            "execve", "spawn", "fork", "ptrace", "process_vm_readv", "bpf", "userfaultfd", "unshare", "pidfd_getfd", "setns", "ioctl",
            "mount",
            "executable mapping", "packet socket",
        ] { #expect(answers[refused] == EPERM, "\(refused): \(text)") }
        for needed in ["thread", "memory", "stream socket", "file"] { #expect(answers[needed] == 0, "\(needed): \(text)") }
    }
    /// Every thread of a daemon that serves is under it, those included that ran before.
    @Test func everyThreadOfAServingDaemonIsUnderIt() throws {
        for (arguments, mode) in [([], "2"), (["--no-confine"], "0")] as [([String], String)] {
            let socket = scratch.file("socket\(mode)")
            let control = scratch.file("control\(mode)")
            let source = try Program.pageferry(
                ["source", "--memory", try scratch.memoryFile(), "--listen", "unix:\(socket)", "--control", control] + arguments,
                in: scratch)
            #expect(source.says(" on "), "\(source.errorOutput)")
            // It says that it serves a moment before the last of its threads runs.
            #expect(poll(until: { directoryEntries("/proc/\(source.process)/task").count > 2 }))
            if Self.isSanitized { continue }
            func modes() -> Set<Substring> {
                Set(
                    directoryEntries("/proc/\(source.process)/task").compactMap { thread in
                        (fileText("/proc/\(source.process)/task/\(thread)/status") ?? "").split(separator: "\n")
                            .first { $0.hasPrefix("Seccomp:") }?.split(separator: "\t").last
                    })
            }
            #expect(poll(until: { modes() == [Substring(mode)] }), "\(modes())")
        }
    }

    private static let isSanitized = unsafeSymbol("__asan_init") || unsafeSymbol("__tsan_init")

    private static func unsafeSymbol(_ name: String) -> Bool { dlsym(nil, name) != nil }
}
