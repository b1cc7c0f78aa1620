import ArgumentParser
import PageEngine

/// What is fetched around a demanded page: "adaptive", or blocks of one size.
struct WindowArgument: ExpressibleByArgument {
    let policy: WindowPolicy

    static let adaptive = WindowArgument(policy: .adaptive())

    init(policy: WindowPolicy) { self.policy = policy }

    init?(argument: String) {
        if argument == "adaptive" {
            self = .adaptive
        } else if let size = SizeArgument(argument: argument) {
            policy = WindowPolicy(windowBytes: size.bytes)
        } else {
            return nil
        }
    }

    var defaultValueDescription: String {
        policy.shape == .adaptive ? "adaptive" : SizeArgument(bytes: policy.windowBytes).defaultValueDescription
    }
}
