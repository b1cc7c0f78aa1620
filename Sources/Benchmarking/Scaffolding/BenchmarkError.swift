import Demonstration

/// Why a benchmark could not run. One line, with the way to mend it where there is one.
public struct BenchmarkError: Error, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}

/// Runs what throws the errors of other modules.
func orBenchmarkError<Result: ~Copyable>(_ body: () throws -> Result) throws(BenchmarkError) -> Result {
    do { return try body() } catch {
        throw error as? BenchmarkError ?? BenchmarkError("\(error)")
    }
}
