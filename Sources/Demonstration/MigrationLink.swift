import Foundation

/// Where the two ends of a demonstration's migration are: on loopback, or at the ends of a link of its own, each in a network
/// namespace, as `perf/link/with-link` makes it.
public struct MigrationLink: Sendable {
    /// What starts a command at the source's end, and at the destination's.
    public var sourcePrefix: [String]
    public var destinationPrefix: [String]
    public var sourceAddress: String
    public var destinationAddress: String

    public static let loopback = MigrationLink(
        sourcePrefix: [], destinationPrefix: [], sourceAddress: "127.0.0.1", destinationAddress: "127.0.0.1")

    /// The link that `perf/link/with-link` has made around this process.
    public static func ofEnvironment(
        _ environment: [String: String] = ProcessInfo.processInfo.environment
    ) throws(DemonstrationError) -> MigrationLink {
        guard let source = environment["PAGEFERRY_LINK_SOURCE"], let destination = environment["PAGEFERRY_LINK_DESTINATION"],
            let sourceAddress = environment["PAGEFERRY_LINK_SOURCE_ADDRESS"],
            let destinationAddress = environment["PAGEFERRY_LINK_DESTINATION_ADDRESS"]
        else { throw DemonstrationError("there is no link here; run this under perf/link/with-link") }
        return MigrationLink(
            sourcePrefix: ["ip", "netns", "exec", source], destinationPrefix: ["ip", "netns", "exec", destination],
            sourceAddress: sourceAddress, destinationAddress: destinationAddress)
    }
}
