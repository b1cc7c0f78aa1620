import Foundation

/// What another program prints.
enum ToolOutput {
    /// Runs a program to its end.
    ///
    /// - Parameter package: what to install when it is not there.
    static func of(_ arguments: [String], package: String) throws(BenchmarkError) -> String {
        let process = Process()
        let pipe = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/env")
        process.arguments = arguments
        process.standardOutput = pipe
        process.standardError = pipe
        do {
            try process.run()
            let data = try pipe.fileHandleForReading.readToEnd() ?? Data()
            process.waitUntilExit()
            return String(decoding: data, as: UTF8.self)
        } catch {
            throw BenchmarkError("cannot run \(arguments[0]): \(error.localizedDescription); install \(package)")
        }
    }
}
