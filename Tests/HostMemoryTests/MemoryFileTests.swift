import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing

@Suite("Memory files and mappings", .leavesNothing, .serialized)
struct MemoryFileTests {
    @Test("Two mappings of one file share their bytes, and a punched hole reads as zero")
    func sharing() throws {
        let file = try MemoryFile.create(name: "sharing", lengthBytes: 8 * 4096)
        #expect(try file.lengthBytes() == 8 * 4096)
        #expect(file.pageSize == .fourKiB)
        let a = try MappedMemory(of: file, lengthBytes: 8 * 4096, access: .readOnly)
        let b = try MappedMemory(of: file, offset: 4096, lengthBytes: 4096, access: .readWrite)
        b.withMutableBytes(0..<4096) { $0.storeBytes(of: 0xff, toByteOffset: 4095, as: UInt8.self) }
        #expect(a.isZero(firstPage: 0, count: 1) == true)
        #expect(a.isZero(firstPage: 0, count: 2) == false)
        try file.punchHole(4096..<8192)
        #expect(a.isZero(firstPage: 1, count: 1) == true)
        #expect(b.isZero(firstPage: 0, count: 1) == true)
    }

    @Test("A mapping outside its file, or of part of a page, is refused")
    func bounds() throws {
        let file = try MemoryFile.create(name: "bounds", lengthBytes: 4 * 4096)
        for (offset, length) in [(0, 5 * 4096), (4096, 4 * 4096), (1, 4096), (0, 100), (-4096, 4096), (0, 0), (.max & ~4095, 4096)] {
            #expect(throws: HostMemoryError.outsideFile(offset: offset, lengthBytes: length, fileBytes: 4 * 4096)) {
                _ = try MappedMemory(of: file, offset: offset, lengthBytes: length, access: .readOnly)
            }
        }
    }

    @Test("What is no file is refused, and a path that is not there")
    func notAFile() throws {
        var ends: [Int32] = [0, 0]
        #expect(pipe(&ends) == 0)
        defer { close(ends[1]) }
        #expect(throws: HostMemoryError.notAFile(name: "pipe")) { _ = try MemoryFile(adopting: ends[0], name: "pipe") }
        #expect(throws: HostMemoryError.cannotOpen(path: "/nowhere/ram", code: ENOENT)) {
            _ = try MemoryFile(path: "/nowhere/ram", access: .readOnly)
        }
    }

    @Test("Data runs and holes of a file on tmpfs are told apart")
    func holes() throws {
        let file = try MemoryFile.create(name: "holes", lengthBytes: 64 * 4096)
        #expect(try file.nextDataRun(from: 0) == nil)
        let memory = try MappedMemory(of: file, lengthBytes: 64 * 4096, access: .readWrite)
        for page in [3, 4, 5, 40] {
            memory.withMutableBytes(page * 4096..<(page + 1) * 4096) { $0.storeBytes(of: 1, toByteOffset: 0, as: UInt8.self) }
        }
        #expect(try file.nextDataRun(from: 0) == 3 * 4096..<6 * 4096)
        #expect(try file.nextDataRun(from: 4 * 4096) == 4 * 4096..<6 * 4096)
        #expect(try file.nextDataRun(from: 6 * 4096) == 40 * 4096..<41 * 4096)
        #expect(try file.nextDataRun(from: 41 * 4096) == nil)
        #expect(try file.nextDataRun(from: 64 * 4096) == nil)
    }

    @Test("Opening by path and by another owner of the descriptor reaches the same file")
    func identity() throws {
        let path = "/dev/shm/pageferry-test-\(getpid())-identity"
        let created = open(path, O_RDWR | O_CREAT | O_EXCL, 0o600)
        try #require(created >= 0)
        defer { unlink(path) }
        #expect(ftruncate(created, 4096) == 0)
        let file = try MemoryFile(adopting: created, name: path)
        let again = try MemoryFile(path: path, access: .readOnly)
        let other = try MemoryFile.create(name: "other", lengthBytes: 4096)
        #expect(try file.isSameFile(as: again))
        #expect(try file.isSameFile(as: file.duplicated()))
        #expect(try !file.isSameFile(as: other))
    }

    @Test("Anonymous memory is populated, discarded and reads as zero")
    func anonymous() throws {
        let memory = try MappedMemory(anonymousBytes: 4 << 20)
        #expect(memory.address % UInt(PageSize.twoMiB.bytes) == 0)
        try memory.populate()
        memset(memory.pointer, 1, memory.lengthBytes)
        #expect(memory.isZero(firstPage: 1023, count: 1) == false)
        try memory.discard(0..<memory.lengthBytes)
        #expect(memory.isZero(firstPage: 0, count: memory.pageCount) == true)
    }

    @Test("Allocating fills the holes of a range and leaves what is there")
    func allocate() throws {
        let file = try MemoryFile.create(name: "test", lengthBytes: 8 << 12)
        let mapping = try MappedMemory(of: file, lengthBytes: 8 << 12, access: .readWrite)
        memset(mapping.pointer + 3 << 12, 0x77, 4096)
        try file.allocate(2 << 12..<5 << 12)
        // Pages that nobody has touched are no data yet for SEEK_DATA, but the file holds them.
        var status = stat()
        #expect(fstat(file.rawValue, &status) == 0 && status.st_blocks * 512 == 3 << 12)
        mapping.withBytes(0..<8 << 12) { bytes in
            for page in 0..<8 { #expect(bytes.unsafeLoad(fromByteOffset: page << 12, as: UInt8.self) == (page == 3 ? 0x77 : 0)) }
        }
        try file.allocate(0..<0)
    }

    @Test("Huge pages: page size known, mapped, populated, punched")
    func hugePages() throws {
        guard let reserve = HugePageReserve(count: 4) else { return }
        let file = try MemoryFile.create(name: "huge", lengthBytes: 8 << 20, pageSize: .twoMiB)
        #expect(file.pageSize == .twoMiB)
        #expect(file.isHugetlbfs == true)
        let memory = try MappedMemory(of: file, lengthBytes: 8 << 20, access: .readWrite)
        memory.withMutableBytes(4 << 20..<6 << 20) { $0.storeBytes(of: 1, toByteOffset: 2_000_000, as: UInt8.self) }
        var scanner = try ContentScanner(file: file, pageSize: .twoMiB)
        #expect(
            try scanner.nextRun(from: 0, count: 4, mostScanned: 4, file: file, memory: memory)
                == .init(content: .zero, first: 0, count: 2))
        #expect(
            try scanner.nextRun(from: 2, count: 2, mostScanned: 4, file: file, memory: memory)
                == .init(content: .data, first: 2, count: 1))
        // Looking at the holes allocated nothing: one page of four is in use.
        var status = stat()
        #expect(fstat(file.rawValue, &status) == 0)
        #expect(Int(status.st_blocks) * 512 == 2 << 20)
        #expect(try scanner.firstHole(from: 0, count: 4, file: file) == nil)
        try file.punchHole(4 << 20..<6 << 20)
        #expect(fstat(file.rawValue, &status) == 0)
        #expect(status.st_blocks == 0)
        withExtendedLifetime(reserve) {}
    }
}
