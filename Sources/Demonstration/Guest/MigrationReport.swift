/// One migration of the demonstration's guest, by whatever moved it. A figure that a system does not tell is nil.
public struct MigrationReport: Sendable, Codable {
    public var system: String
    public var guest: GuestAccount
    /// From the guest's stop on the source to its resuming at the destination, as QEMU's own events tell it. The guest does
    /// not run yet then as far as it can see: its first pages are still to come.
    public var stopToResumeMilliseconds: Double?
    /// From the guest's stop on the source to the last page at the destination.
    public var lastPageMilliseconds: Double
    public var faults: Int
    /// From the reading of a fault's event to the system call that made its page visible.
    public var faultP50Microseconds: Double
    public var faultP99Microseconds: Double
    public var faultMaxMicroseconds: Double
    /// Bytes of page content that crossed the wire.
    public var bytes: Int?
    public var demandPages: Int?
    public var windowPages: Int?
    public var pushPages: Int?
    public var zeroPages: Int?
    public var processorTime: MigrationProcessorTime?

    /// Seconds for each GiB of page content on the wire.
    public var processorSecondsAGiB: Double? { processorTime?.secondsAGiB(contentBytes: bytes ?? 0) }

    public var isRight: Bool { guest.faults.isEmpty }
}

/// Two migrations of the same guest in one run.
public struct ComparisonReport: Sendable, Codable {
    public var schemaVersion = 1
    public var ours: MigrationReport
    public var native: MigrationReport?
    /// QEMU's own without its preempt channel.
    public var nativeWithoutPreempt: MigrationReport?

    public init(ours: MigrationReport, native: MigrationReport?, nativeWithoutPreempt: MigrationReport? = nil) {
        self.ours = ours
        self.native = native
        self.nativeWithoutPreempt = nativeWithoutPreempt
    }

    private var reports: [MigrationReport] { [ours, native, nativeWithoutPreempt].compactMap { $0 } }

    public var isRight: Bool { reports.allSatisfy(\.isRight) }

    /// The two side by side, as aligned text.
    public func table() -> String {
        let columns = reports
        var rows: [[String]] = [[""] + columns.map(\.system)]
        func add(_ title: String, _ value: (MigrationReport) -> String) { rows.append([title] + columns.map(value)) }
        add("guest-visible gap, ms") { Self.format($0.guest.gapMilliseconds) }
        add("stop to resume, ms") { $0.stopToResumeMilliseconds.map { Self.format($0) } ?? "-" }
        add("last page after stop, ms") { Self.format($0.lastPageMilliseconds) }
        add("faults") { "\($0.faults)" }
        add("fault p50, us") { Self.format($0.faultP50Microseconds) }
        add("fault p99, us") { Self.format($0.faultP99Microseconds) }
        add("fault max, us") { Self.format($0.faultMaxMicroseconds) }
        add("guest work in 0.25 s, pages") { "\($0.guest.pagesIn250Milliseconds)" }
        add("guest work in 1 s, pages") { "\($0.guest.pagesIn1Second)" }
        add("content on the wire, MiB") { $0.bytes.map { Self.format(Double($0) / 1_048_576) } ?? "-" }
        add("pages demanded") { Self.format($0.demandPages) }
        add("pages in windows") { Self.format($0.windowPages) }
        add("pages pushed") { Self.format($0.pushPages) }
        add("pages zero") { Self.format($0.zeroPages) }
        add("processor time, s/GiB") { $0.processorSecondsAGiB.map { Self.hundredths($0) } ?? "-" }
        add("guest") { $0.isRight ? "correct" : "WRONG" }
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            row.enumerated().map { column, cell in
                let padding = String(repeating: " ", count: widths[column] - cell.count)
                return column == 0 ? cell + padding : padding + cell
            }.joined(separator: "   ")
        }.joined(separator: "\n")
    }

    private static func format(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return value >= 1000 ? "\(Int(value.rounded()))" : "\(tenths / 10).\(abs(tenths % 10))"
    }

    private static func hundredths(_ value: Double) -> String {
        let all = Int((value * 100).rounded())
        return "\(all / 100).\(all % 100 < 10 ? "0" : "")\(all % 100)"
    }

    private static func format(_ value: Int?) -> String { value.map { "\($0)" } ?? "-" }
}
