import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

/// A guest in a process of its own, whose memory this process serves.
@Suite("Native hand-off between two processes", .leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct NativeTwoProcessTests {
    static let pages = 64

    /// The daemon: answers every fault of its regions by `install`, until the guest has gone.
    private func serve(
        _ path: String, _ install: @escaping @Sendable (borrowing HandedOverRegion, PageIndex) -> InstallOutcome
    ) -> Runner<[InstallOutcome]> {
        Runner {
            var outcomes: [InstallOutcome] = []
            guard let listener = try? HandoffListener(path: path),
                let connection = try? listener.accept(timeoutNanoseconds: 20 * seconds),
                let regions = try? connection.receiveRegions(timeoutNanoseconds: 20 * seconds),
                (try? connection.acknowledge()) != nil
            else { return [] }
            var batch = UserfaultEventBatch()
            while (try? connection.waitForEnd(timeoutMilliseconds: 0)) == false {
                guard (try? regions[0].userfault.waitForEvents(timeoutMilliseconds: 20)) == true else { continue }
                guard let count = try? regions[0].userfault.readEvents(into: &batch) else { break }
                for index in 0..<count {
                    guard case .pageFault(let address, _) = batch[index] else { continue }
                    outcomes.append(install(regions[0], Int(address - regions[0].address) >> 12))
                }
            }
            // Whatever is late finds nobody.
            outcomes.append(install(regions[0], 0))
            return outcomes
        }
    }

    @Test("Anonymous memory of another process is served by copy; move refuses another process's memory")
    func anonymous() async throws {
        let path = socketPath("two-anonymous")
        let daemon = serve(path) { region, page in
            guard let source = try? MappedMemory(anonymousBytes: 4096) else { return .failed(code: 0) }
            memset(source.pointer, Int32(page + 1), 4096)
            let address = region.address + UInt(page << 12)
            let moved = region.userfault.move(source: source.address, address: address, lengthBytes: 4096, pageSize: .fourKiB)
            guard moved == .failed(code: EINVAL) || moved == .vmmGone else { return .failed(code: EPROTO) }
            return region.userfault.copy(source: source.address, address: address, lengthBytes: 4096, pageSize: .fourKiB)
        }
        await #expect(processExitsWith: .exitCode(42)) {
            let memory = try MappedMemory(anonymousBytes: NativeTwoProcessTests.pages * 4096)
            var client = try connectToParent("two-anonymous")
            let userfault = try client.handOver(name: "ram", anonymous: memory)
            try client.ready()
            exitAfterChecking(memory, userfault, client)
        }
        let outcomes = try #require(daemon.join())
        #expect(outcomes.dropLast() == Array(repeating: .installed, count: Self.pages)[...])
        #expect(outcomes.last == .vmmGone)
    }

    @Test("Shared memory of another process is served by writing its file and continuing")
    func shared() async throws {
        let path = socketPath("two-shared")
        let daemon = serve(path) { region, page in
            guard let memory = try? region.mapFile() else { return .failed(code: 0) }
            memset(memory.pointer + page << 12, Int32(page + 1), 4096)
            return region.userfault.continueRange(
                address: region.address + UInt(page << 12), lengthBytes: 4096, pageSize: .fourKiB)
        }
        await #expect(processExitsWith: .exitCode(42)) {
            let file = try MemoryFile.create(name: "guest", lengthBytes: NativeTwoProcessTests.pages * 4096)
            let memory = try MappedMemory(of: file, lengthBytes: NativeTwoProcessTests.pages * 4096, access: .readWrite)
            var client = try connectToParent("two-shared")
            let userfault = try client.handOver(name: "ram", memory: memory, file: file)
            try client.ready()
            exitAfterChecking(memory, userfault, client)
        }
        let outcomes = try #require(daemon.join())
        #expect(outcomes.dropLast() == Array(repeating: .installed, count: Self.pages)[...])
        #expect(outcomes.last == .vmmGone)
    }
}

/// In the guest's process: waits for the daemon in the process that started it.
func connectToParent(_ name: String) throws -> HandoffClient {
    let path = socketPath(name, of: getppid())
    // Between bind and listen the path is there, but nobody listens yet.
    for _ in 0..<20_000 {
        do throws(HandoffError) {
            return try HandoffClient(path: path)
        } catch {
            guard case .nobodyListens = error else { throw error }
            _ = poll(nil, 0, 1)
        }
    }
    return try HandoffClient(path: path)
}

/// Exits with 42 when every page reads as the daemon filled it.
func exitAfterChecking(
    _ memory: borrowing MappedMemory, _ userfault: borrowing UserfaultDescriptor, _ client: borrowing HandoffClient
) {
    for page in (0..<memory.pageCount).reversed() {
        let byte = (memory.pointer + page << 12 + 17).load(as: UInt8.self)
        if byte != UInt8(page + 1) { exit(1) }
    }
    exit(client.regionCount == 1 && userfault.rawValue >= 0 ? 42 : 2)
}
