import Testing

@testable import Demonstration

@Suite struct ComparisonReportTests {
    private func report(_ system: String, faults: [String] = [], bytes: Int? = 1 << 20, gap: UInt64 = 25) -> MigrationReport {
        var source = GuestLog()
        source.read("T 1 0 5", arrivedNanoseconds: 1_000_000)
        var destination = GuestLog()
        destination.read("T 2 0 10", arrivedNanoseconds: (1 + gap) * 1_000_000)
        destination.read("DONE ticks=2 pages=10 bad=0 disk_reads=1 bad_reads=0 sums=1 bad_sums=0", arrivedNanoseconds: 30_000_000)
        for fault in faults { destination.read("BAD \(fault)", arrivedNanoseconds: 31_000_000) }
        return MigrationReport(
            system: system, guest: GuestAccount(source: source, destination: destination), lastPageMilliseconds: 1234.5,
            faults: 77, faultP50Microseconds: 99.96, faultP99Microseconds: 0, faultMaxMicroseconds: 12.34, bytes: bytes,
            demandPages: bytes.map { _ in 3 }, windowPages: nil, pushPages: 123_456_789, zeroPages: 0)
    }

    private func cells(_ row: Substring) -> [String] {
        // Columns are three blanks apart at least; titles hold single ones.
        row.split(separator: "   ").map { $0.trimmingPrefix(while: { $0 == " " }) }.map(String.init)
    }

    @Test func columnsAlign() throws {
        let table = ComparisonReport(ours: report("PageFerry"), native: report("QEMU post-copy + preempt", bytes: nil)).table()
        let rows = table.split(separator: "\n", omittingEmptySubsequences: false)
        #expect(Set(rows.map(\.count)).count == 1, "every row is as long as the others:\n\(table)")
        #expect(rows[0].hasSuffix("PageFerry   QEMU post-copy + preempt"))
        for row in rows.dropFirst() {
            #expect(row.last != " " && row.first != " ", "titles begin at the left, figures end at the right")
        }
        let gap = try #require(rows.first { $0.hasPrefix("guest-visible gap, ms") })
        #expect(cells(gap) == ["guest-visible gap, ms", "25.0", "25.0"])
    }

    @Test func figures() throws {
        let rows = ComparisonReport(ours: report("PageFerry"), native: report("QEMU", bytes: nil)).table().split(separator: "\n")
        func row(_ title: String) -> [String] { rows.first { $0.hasPrefix(title) }.map(cells) ?? [] }
        #expect(row("last page after stop") == ["last page after stop, ms", "1235", "1235"])
        #expect(row("fault p50") == ["fault p50, us", "100.0", "100.0"])
        #expect(row("fault max") == ["fault max, us", "12.3", "12.3"])
        #expect(row("content on the wire") == ["content on the wire, MiB", "1.0", "-"])
        #expect(row("pages demanded") == ["pages demanded", "3", "-"])
        #expect(row("pages pushed") == ["pages pushed", "123456789", "123456789"])
    }

    @Test func oneColumnAlone() {
        let table = ComparisonReport(ours: report("PageFerry"), native: nil).table()
        #expect(Set(table.split(separator: "\n").map(\.count)).count == 1)
    }

    @Test func aWrongGuestIsNamed() {
        let right = report("PageFerry")
        let wrong = report("QEMU", faults: ["page 3"])
        #expect(right.isRight && !wrong.isRight)
        #expect(ComparisonReport(ours: right, native: nil).isRight)
        #expect(!ComparisonReport(ours: right, native: wrong).isRight)
        #expect(!ComparisonReport(ours: wrong, native: right).isRight)
        #expect(ComparisonReport(ours: right, native: wrong).table().contains("WRONG"))
    }
}
