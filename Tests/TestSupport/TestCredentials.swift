import Foundation
import Glibc
import Testing

/// Credentials made for one test, by the openssl command, in a directory that goes with this value.
public final class TestCredentials: Sendable {
    public let directory: String

    public init() throws {
        var template = Array("/tmp/pf-credentials.XXXXXX".utf8CString)
        directory = String(cString: try #require(mkdtemp(&template)))
        chmod(directory, 0o700)
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    public func file(_ name: String) -> String { "\(directory)/\(name)" }

    /// A file of this content, for its owner alone.
    public func write(_ text: String, to name: String, mode: mode_t = 0o600) throws -> String {
        try text.write(toFile: file(name), atomically: false, encoding: .utf8)
        chmod(file(name), mode)
        return file(name)
    }

    /// A pre-shared key of 64 characters.
    public func key(_ name: String = "psk") throws -> String {
        try write(
            (0..<32).map { _ in String(UInt8.random(in: 0...255), radix: 16) }.joined() + String(repeating: "k", count: 16) + "\n", to: name
        )
    }

    /// A certificate that stands for itself: NAME.pem and NAME.key.
    public func authority(_ name: String = "authority") throws {
        try run(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout \(name).key -out \(name).pem -subj /CN=\(name) -days 2"
        )
    }

    /// A certificate by an authority, NAME.pem and NAME.key, for the names (as subjectAltName takes them).
    public func certificate(_ name: String, by authority: String = "authority", names: String = "DNS:source.test", days: Int = 2) throws {
        _ = try write("subjectAltName=\(names)\n", to: "\(name).ext")
        try run(
            "openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout \(name).key -out \(name).csr -subj /CN=\(name)")
        try run(
            "openssl x509 -req -in \(name).csr -CA \(authority).pem -CAkey \(authority).key -set_serial \(UInt32.random(in: 1 ... .max)) -out \(name).pem -days \(days) -extfile \(name).ext"
        )
    }

    private func run(_ command: String) throws {
        let status = system("cd \(directory) && \(command) >openssl.log 2>&1")
        let said = (try? String(contentsOfFile: file("openssl.log"), encoding: .utf8)) ?? ""
        try #require(status == 0, "\(command): \(said)")
    }
}
