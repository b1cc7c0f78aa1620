/// Why a demonstration could not run, or did not go as it must. One line.
public struct DemonstrationError: Error, Sendable, CustomStringConvertible {
    public let description: String

    public init(_ description: String) { self.description = description }
}
