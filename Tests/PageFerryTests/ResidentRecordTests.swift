import Glibc
import PageCore
import TestSupport
import Testing

@testable import PageFerry

/// What a daemon leaves for the one that takes over.
@Suite(.leavesNothing) struct ResidentRecordTests {
    private let path = "/tmp/pf-record-test.\(getpid())"

    private static func layout(_ pages: Int) throws -> RegionLayout {
        try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
    }

    private static func list(_ pages: borrowing PageBitmap) -> [Int] { (0..<pages.pageCount).filter { pages.contains($0) } }

    /// Runs of every place and length within a few words, one after the other.
    @Test func everyRun() throws {
        defer { unlink(path) }
        let layout = try Self.layout(200)
        for first in stride(from: 0, to: 200, by: 7) {
            for length in [1, 2, 63, 64, 65, 130, 200] where first + length <= 200 {
                let record = try ResidentRecord.create(path: path, layout: layout)
                record.insert(first..<(first + length))
                #expect(Self.list(try ResidentRecord.open(path: path, layout: layout).pages()) == Array(first..<(first + length)))
            }
        }
    }

    @Test func bitsAreAdded() throws {
        defer { unlink(path) }
        let layout = try Self.layout(70)
        let record = try ResidentRecord.create(path: path, layout: layout)
        var random = SeededRandom(seed: 4)
        var expected: Set<Int> = []
        for _ in 0..<40 {
            let page = random.next(below: 70)
            record.insert(page..<(page + 1))
            expected.insert(page)
            #expect(Self.list(record.pages()) == expected.sorted())
        }
    }

    /// Without a record nobody may guess: a page that the guest has written to would be fetched over it.
    @Test func whatIsNoRecordIsRefused() throws {
        defer { unlink(path) }
        let layout = try Self.layout(70)
        #expect(throws: SessionError.self) { try ResidentRecord.open(path: path, layout: layout) }
        _ = try ResidentRecord.create(path: path, layout: layout)
        #expect(throws: SessionError.self) { try ResidentRecord.open(path: path, layout: Self.layout(71)) }
        let descriptor = open(path, O_RDWR)
        var zero: UInt8 = 0
        #expect(pwrite(descriptor, &zero, 1, 0) == 1)
        close(descriptor)
        #expect(throws: SessionError.self) { try ResidentRecord.open(path: path, layout: layout) }
    }

    @Test func onlyItsUserMayReadIt() throws {
        defer { unlink(path) }
        _ = try ResidentRecord.create(path: path, layout: Self.layout(1))
        var status = stat()
        #expect(stat(path, &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
    }
}
