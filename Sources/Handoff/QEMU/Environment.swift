import Foundation

/// This process's environment, for a child that gets a little more.
enum Environment {
    static var current: [String: String] { ProcessInfo.processInfo.environment }
}
