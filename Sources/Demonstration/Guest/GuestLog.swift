/// What a guest said on its port, on one host or two.
public struct GuestLog: Sendable {
    /// One line of the guest's 10 ms clock.
    public struct Tick: Sendable, Hashable {
        /// From one; every one must appear, once.
        public var number: Int
        /// When the line was read on the host, monotonic nanoseconds.
        public var hostNanoseconds: UInt64
        /// Pages of work done so far.
        public var pages: Int
    }

    /// The last line a guest says.
    public struct Verdict: Sendable, Hashable, Codable {
        public var ticks = 0
        public var pages = 0
        public var badPages = 0
        public var diskReads = 0
        public var badReads = 0
        public var sums = 0
        public var badSums = 0
    }

    public private(set) var ticks: [Tick] = []
    public private(set) var badLines: [String] = []
    public private(set) var verdict: Verdict?

    public init() {}

    /// Takes the next line of the port.
    public mutating func read(_ text: String, arrivedNanoseconds: UInt64) {
        let words = text.split(separator: " ")
        switch words.first {
        case "T" where words.count == 4:
            if let number = Int(words[1]), let pages = Int(words[3]) {
                ticks.append(Tick(number: number, hostNanoseconds: arrivedNanoseconds, pages: pages))
            } else {
                badLines.append(text)
            }
        case "BAD": badLines.append(text)
        case "DONE": verdict = Self.parse(words.dropFirst())
        case "READY", "WAITING", nil: break
        default: badLines.append(text)
        }
    }

    private static func parse(_ words: ArraySlice<Substring>) -> Verdict {
        var values: [Substring: Int] = [:]
        for word in words {
            let parts = word.split(separator: "=")
            if parts.count == 2, let value = Int(parts[1]) { values[parts[0]] = value }
        }
        return Verdict(
            ticks: values["ticks"] ?? 0, pages: values["pages"] ?? 0, badPages: values["bad"] ?? -1,
            diskReads: values["disk_reads"] ?? 0, badReads: values["bad_reads"] ?? -1, sums: values["sums"] ?? 0,
            badSums: values["bad_sums"] ?? -1)
    }
}

/// What a migration meant to the guest: seen in its own ticks, on the source's port and then on the destination's.
public struct GuestAccount: Sendable, Codable {
    /// From the last tick on the source to the first at the destination.
    public var gapMilliseconds: Double
    /// Pages of work done in the first 0.25 s and 1 s after the last tick on the source.
    public var pagesIn250Milliseconds: Int
    public var pagesIn1Second: Int
    public var verdict: GuestLog.Verdict
    /// What is wrong; nothing when the guest is as it would be had it never moved.
    public var faults: [String]

    /// Joins the two logs and looks for everything that must not be.
    public init(source: GuestLog, destination: GuestLog) {
        var faults: [String] = []
        if source.ticks.isEmpty { faults.append("the guest never ticked on the source") }
        if destination.ticks.isEmpty { faults.append("the guest never ticked at the destination") }
        let all = source.ticks + destination.ticks
        for (one, next) in zip(all, all.dropFirst()) where next.number != one.number + 1 {
            faults.append("tick \(next.number) follows tick \(one.number)")
        }
        faults += source.badLines + destination.badLines
        let verdict = destination.verdict ?? GuestLog.Verdict()
        if destination.verdict == nil { faults.append("the guest gave no verdict") }
        if verdict.badPages != 0 || verdict.badReads != 0 || verdict.badSums != 0 {
            faults.append("the guest counted \(verdict.badPages) bad pages, \(verdict.badReads) bad reads, \(verdict.badSums) bad sums")
        }
        if destination.verdict != nil, verdict.ticks != all.last?.number {
            faults.append("the guest counted \(verdict.ticks) ticks, \(all.last?.number ?? 0) were seen")
        }
        if destination.verdict != nil, verdict.diskReads == 0 || verdict.sums == 0 {
            faults.append("the guest read no disk or no file")
        }
        self.faults = Array(faults.prefix(20))
        self.verdict = verdict
        let last = source.ticks.last
        let first = destination.ticks.first
        gapMilliseconds = if let last, let first { Double(first.hostNanoseconds) / 1e6 - Double(last.hostNanoseconds) / 1e6 } else { 0 }
        pagesIn250Milliseconds = Self.work(after: last, 250_000_000, destination)
        pagesIn1Second = Self.work(after: last, 1_000_000_000, destination)
    }

    private static func work(after last: GuestLog.Tick?, _ nanoseconds: UInt64, _ log: GuestLog) -> Int {
        guard let last else { return 0 }
        let seen = log.ticks.last { $0.hostNanoseconds <= last.hostNanoseconds + nanoseconds }
        return (seen?.pages ?? last.pages) - last.pages
    }
}
