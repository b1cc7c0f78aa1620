/// This program's version: the only place that has it beside the library's header, which a test compares.
enum Version {
    static let text = "0.2.0"
}
