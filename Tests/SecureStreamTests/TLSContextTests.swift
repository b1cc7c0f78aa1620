import Glibc
import TestSupport
import Testing

@testable import SecureStream

/// Credentials that cannot be used are refused when they are read, each with the line that says why.
@Suite(.leavesNothing) struct TLSContextTests {
    private func error(_ credentials: TLSCredentials) -> TLSError? {
        do throws(TLSError) {
            _ = try TLSContext(credentials, role: .server)
            return nil
        } catch {
            #expect(!error.description.contains("\n"))
            return error
        }
    }

    @Test func keysThatCannotBeUsed() throws {
        let credentials = try TestCredentials()
        #expect(error(.preSharedKey(path: "/nowhere")) == .cannotRead(path: "/nowhere", errno: ENOENT))
        #expect(error(.preSharedKey(path: "/tmp")) == .cannotRead(path: "/tmp", errno: EINVAL))
        let good = String(repeating: "k", count: 32)
        for mode: mode_t in [0o640, 0o604, 0o660] {
            let open = try credentials.write(good, to: "open", mode: mode)
            #expect(error(.preSharedKey(path: open)) == .secretIsOpen(path: open))
            unlink(open)
        }
        for (text, bytes) in [("short\n", 5), (String(repeating: "k", count: 257), 257), ("", 0)] {
            let path = try credentials.write(text, to: "length")
            #expect(error(.preSharedKey(path: path)) == .secretLength(path: path, bytes: bytes))
        }
        #expect(error(.preSharedKey(path: try credentials.write(good, to: "good"))) == nil)
    }

    /// A secret is in no text of an error.
    @Test func secretsStaySecret() throws {
        let credentials = try TestCredentials()
        let path = try credentials.write("hush-hush", to: "short")
        #expect(error(.preSharedKey(path: path))?.description.contains("hush") == false)
    }

    @Test func certificatesThatCannotBeUsed() throws {
        let credentials = try TestCredentials()
        try credentials.authority()
        try credentials.certificate("one")
        try credentials.certificate("other")
        func files(_ chain: String, _ key: String, _ authority: String = "authority.pem") -> TLSCredentials {
            .certificates(chainPath: credentials.file(chain), keyPath: credentials.file(key), authorityPath: credentials.file(authority))
        }
        #expect(error(files("one.pem", "one.key")) == nil)
        #expect(error(files("none.pem", "one.key")) == .cannotRead(path: credentials.file("none.pem"), errno: ENOENT))
        #expect(error(files("one.pem", "none.key")) == .cannotRead(path: credentials.file("none.key"), errno: ENOENT))
        chmod(credentials.file("one.pem"), 0o600)
        for wrong in [
            files("one.key", "one.key"), files("one.pem", "other.key"), files("one.pem", "one.pem"), files("one.pem", "one.key", "one.ext"),
        ] {
            guard case .badFile? = error(wrong) else {
                Issue.record("\(wrong): \(String(describing: error(wrong)))")
                continue
            }
        }
        chmod(credentials.file("one.key"), 0o644)
        #expect(error(files("one.pem", "one.key")) == .secretIsOpen(path: credentials.file("one.key")))
    }
}
