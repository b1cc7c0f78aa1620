/// What a run of benchmarks found. Documentation/Benchmarks.md describes the JSON.
public struct BenchmarkReport: Sendable, Codable {
    /// Raised when a field changes its meaning or goes; new fields do not raise it.
    public var schemaVersion = 1
    public var machine: MachineDescription
    public var benchmarks: [BenchmarkResult] = []

    public init(machine: MachineDescription) { self.machine = machine }
}

/// One benchmark's figures.
public struct BenchmarkResult: Sendable, Codable {
    public var name: String
    public var title: String
    public var elapsedSeconds: Double = 0
    /// Per cent of the machine's processors that other processes, and the host, used meanwhile.
    public var otherUsePercent: Double = 0
    /// Rounds that were measured; one before them warmed everything up and is not in the figures.
    public var rounds: Int
    public var figures: [Figure] = []
    public var distributions: [Distribution] = []
    public var residency: [ResidencySample] = []
    public var lanes: [LaneThroughput] = []
    /// What a reader must know of these figures: conditions, what was left out and why.
    public var notes: [String] = []

    init(name: String, title: String, rounds: Int) {
        self.name = name
        self.title = title
        self.rounds = rounds
    }
}

/// The resident pages of a session at one moment, by how they came.
public struct ResidencySample: Sendable, Codable {
    public var milliseconds: Double
    public var demandPages: Int
    public var windowPages: Int
    public var pushPages: Int
    public var zeroPages: Int
}

/// The throughput over so many lanes, for the plot.
public struct LaneThroughput: Sendable, Codable {
    public var series: String
    public var lanes: Int
    /// GB/s.
    public var spread: Spread
}
