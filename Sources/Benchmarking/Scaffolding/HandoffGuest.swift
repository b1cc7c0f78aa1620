import CShims
import Demonstration
import FirecrackerHandoff
import Glibc
import HostMemory
import NativeHandoff
import PageCore
import Userfault

/// How a guest of a benchmark hands its memory over.
enum HandoffWay: String, CaseIterable {
    case nativeShared = "native, shared memory"
    case nativeAnonymous = "native, anonymous memory"
    case firecracker = "Firecracker's"
    case firecrackerOverCache = "Firecracker's, from a cache"

    var isFirecracker: Bool { self == .firecracker || self == .firecrackerOverCache }
}

/// Memory of this process that a daemon fills, `pageferry destination --handoff`, a process of its own, as a VMM would have it.
final class HandoffGuest {
    private static let startNanoseconds: UInt64 = 20_000_000_000

    private let daemon: ChildProcess
    private let memory: MappedMemory
    private let file: MemoryFile?
    private var userfault: UserfaultDescriptor?
    private var client: HandoffClient?
    private var connection: Int32 = -1
    private let path: String

    /// - Parameter source: where the daemon connects.
    init(
        _ way: HandoffWay, lengthBytes: Int, executablePath: String, source: String, mode: WaitMode, path: String
    ) throws(BenchmarkError) {
        self.path = path
        Leftovers.expect(path)
        // SAFETY: the path is terminated and lives for the call.
        unsafe unlink(path)
        do throws(DemonstrationError) {
            daemon = try Placement.destination.run { () throws(DemonstrationError) in
                try ChildProcess(
                    [
                        executablePath, "destination", "--connect", source, "--handoff", way.isFirecracker ? "firecracker:\(path)" : path,
                        "--no-push", "--window", "4K", "--bulk-lanes", "1", "--poll", mode.rawValue,
                    ], outputPath: "/dev/null")
            }
        } catch {
            throw BenchmarkError(error.description)
        }
        if way == .nativeShared {
            let created = try orBenchmarkError { try MemoryFile.create(name: "pageferry-bench", lengthBytes: lengthBytes) }
            memory = try orBenchmarkError { try MappedMemory(of: created, lengthBytes: lengthBytes, access: .readWrite) }
            file = .some(created)
        } else {
            memory = try orBenchmarkError { try MappedMemory(anonymousBytes: lengthBytes) }
            file = nil
        }
        if way.isFirecracker { try handOverAsFirecracker() } else { try handOver() }
    }

    deinit {
        daemon.end()
        if connection >= 0 { close(connection) }
        Leftovers.remove(path)
    }

    /// The second half of the memory as the source has it, which lies first here when it was handed over in two pieces.
    func secondHalf(isFirecracker: Bool) -> PatternedMemory {
        let half = memory.pageCount / 2
        // SAFETY: the mapping lives as long as this object, which outlives every user of the pages.
        return unsafe PatternedMemory(address: memory.address + (isFirecracker ? 0 : UInt(half << PageSize.fourKiB.shift)), pageCount: half)
    }

    private func handOver() throws(BenchmarkError) {
        let deadline = MonotonicClock.nowNanoseconds() + Self.startNanoseconds
        while true {
            do throws(HandoffError) {
                var client = try HandoffClient(path: path)
                switch file {
                case .some(let file): userfault = try client.handOver(name: "memory", memory: memory, file: file)
                case .none: userfault = try client.handOver(name: "memory", anonymous: memory)
                }
                try client.ready()
                self.client = .some(client)
                return
            } catch {
                guard case .nobodyListens = error, MonotonicClock.nowNanoseconds() < deadline else {
                    throw BenchmarkError(error.description)
                }
                _ = poll(nil, 0, 5)
            }
        }
    }

    /// Two pieces, the first of the file behind the second.
    private func handOverAsFirecracker() throws(BenchmarkError) {
        let half = memory.lengthBytes / 2
        let opened = try orBenchmarkError { try UserfaultDescriptor(required: .removeEvents) }
        _ = try orBenchmarkError { try opened.register(address: memory.address, lengthBytes: memory.lengthBytes, modes: .missing) }
        func region(_ address: UInt, _ offset: Int) -> String {
            #"{"base_host_virt_addr":\#(address),"size":\#(half),"offset":\#(offset),"page_size":4096,"page_size_kib":4096}"#
        }
        let text = Array("[\(region(memory.address + UInt(half), 0)),\(region(memory.address, half))]".utf8)
        let deadline = MonotonicClock.nowNanoseconds() + Self.startNanoseconds
        connection = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        // SAFETY: the path and the text live for their calls, which are given their lengths.
        while unsafe pageferry_unix_connect(connection, path) != 0 {
            guard MonotonicClock.nowNanoseconds() < deadline else { throw BenchmarkError("the daemon does not listen on \(path)") }
            _ = poll(nil, 0, 5)
        }
        guard unsafe pageferry_handoff_send(connection, text, text.count, [opened.rawValue], 1) == text.count else {
            throw BenchmarkError("the daemon does not take the hand-off")
        }
        userfault = .some(opened)
    }
}
