import CShims
import Foundation
import Glibc
import NativeHandoff

extension FirecrackerConnection {
    /// The Firecracker of a daemon that died.
    public init(again process: Int32) throws(HandoffError) {
        let opened = pageferry_pidfd_open(process)
        guard opened >= 0 else { throw .systemCall(call: "pidfd_open(2)", code: -opened) }
        self.init(kept: opened)
    }

    /// A copy of the one userfaultfd that the process keeps open (pidfd_getfd(2)). Needs the right to trace it.
    public borrowing func takeUserfault(of process: Int32) throws(HandoffError) -> Int32 {
        let folder = "/proc/\(process)/fd"
        guard let entries = try? FileManager.default.contentsOfDirectory(atPath: folder) else {
            throw .badUserfault(
                name: "memory", detail: "the descriptors of process \(process) cannot be listed; run this daemon with CAP_SYS_PTRACE")
        }
        let numbers = entries.compactMap { Int32($0) }.filter {
            (try? FileManager.default.destinationOfSymbolicLink(atPath: "\(folder)/\($0)")) == "anon_inode:[userfaultfd]"
        }
        guard let number = numbers.first, numbers.count == 1, let processDescriptor else {
            throw .badUserfault(name: "memory", detail: "process \(process) has \(numbers.count) userfaultfds open in place of one")
        }
        let copy = pageferry_pidfd_getfd(processDescriptor, number)
        guard copy >= 0 else {
            throw .badUserfault(
                name: "memory",
                detail: "the userfaultfd of process \(process) cannot be taken again (error \(-copy)); run this daemon with CAP_SYS_PTRACE")
        }
        return copy
    }
}
