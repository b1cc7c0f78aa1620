import ArgumentParser

/// Where memory is handed over, and in whose words: a path, or the name of a VMM's own hand-off and a path.
struct HandoffArgument: ExpressibleByArgument {
    enum Form: String {
        /// Documentation/Handoff.md.
        case native
        /// Documentation/Firecracker.md.
        case firecracker
    }

    let form: Form
    let path: String

    init?(argument: String) {
        if let end = argument.firstIndex(of: ":"), let form = Form(rawValue: String(argument[..<end])) {
            self.form = form
            path = String(argument[argument.index(after: end)...])
        } else {
            form = .native
            path = argument
        }
        if path.isEmpty { return nil }
    }
}
