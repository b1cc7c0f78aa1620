import Foundation
import Glibc
import TestSupport
import Testing

/// Where the library and its examples are, as scripts/build-library and the repository have them.
enum LibraryFiles {
    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent().path
    static let directory = "\(root)/.build/library"
    static let fixtures = "\(root)/Tests/LibraryTests/Fixtures"
    static let pageferry = URL(filePath: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "/")
        .deletingLastPathComponent().appending(path: "pageferry").path

    /// Whether the library and what builds against it are here; prints what is missing.
    static let areHere: Bool = {
        for path in ["\(directory)/libpageferry.so.0", "/usr/bin/cc", "/usr/bin/pkg-config", pageferry] where access(path, R_OK) != 0 {
            print("skipped: the library for C; there is no \(path): scripts/ensure-packages library, scripts/build-library")
            return false
        }
        return true
    }()
}

/// The examples, built and run as a stranger would: with a compiler, pkg-config and the library.
@Suite(.leavesNothing, .serialized, .enabled(if: LibraryFiles.areHere)) struct ExampleTests {
    private let scratch: String

    init() throws {
        var template = Array("/tmp/pf-library-test.XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        scratch = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// Runs a shell's command in the scratch directory, with the library to be found; its output, both streams.
    func run(_ command: String, code: Int32 = 0, location: SourceLocation = #_sourceLocation) throws -> String {
        let output = "\(scratch)/output"
        let line = """
            cd '\(scratch)' && export PKG_CONFIG_PATH='\(LibraryFiles.directory)' LD_LIBRARY_PATH='\(LibraryFiles.directory)' && \
            { \(command); } >'\(output)' 2>&1
            """
        let status = try shell(line)
        let text = fileText(output) ?? ""
        #expect(status == code, "\(text)", sourceLocation: location)
        return text
    }

    private func compile(_ source: String, _ program: String) throws {
        let text = try run("cc -std=c11 -Wall -Wextra -Werror -pthread -o \(program) '\(source)' $(pkg-config --cflags --libs pageferry)")
        #expect(text.isEmpty, "\(text)")
    }

    /// Serves a file of a megabyte while `client` runs, which gets its address as $ADDRESS; the file's bytes, and what was said.
    private func serving(_ client: String) throws -> (bytes: [UInt8], output: String) {
        let bytes = (0..<(1 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 12) }
        try Data(bytes).write(to: URL(filePath: "\(scratch)/memory"))
        let output = try run(
            """
            '\(LibraryFiles.pageferry)' source --memory memory --listen unix:socket --sessions 1 2>source.log & source=$!
            while [ ! -S socket ] && kill -0 $source; do sleep 0.02; done
            timeout 60 \(client); status=$?
            [ $status = 0 ] || kill $source
            wait $source; exit $status
            """)
        return (bytes, output)
    }

    func clean() { try? FileManager.default.removeItem(atPath: scratch) }

    @Test func cPagesIn() throws {
        defer { clean() }
        try compile("\(LibraryFiles.root)/Examples/c/page-in.c", "page-in")
        let (bytes, output) = try serving("./page-in unix:socket 1048576")
        let checksum = bytes.reduce(14_695_981_039_346_656_037 as UInt64) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 }
        let text = String(checksum, radix: 16)
        #expect(output.hasPrefix("checksum \(String(repeating: "0", count: 16 - text.count))\(text), "), "\(output)")
    }

    @Test(.enabled(if: access("/usr/bin/python3", X_OK) == 0)) func pythonPagesIn() throws {
        defer { clean() }
        let (_, output) = try serving("/usr/bin/python3 '\(LibraryFiles.root)/Examples/python/page_in.py' unix:socket 1048576")
        let checksum = try run("/usr/bin/python3 -c 'import zlib; print(\"crc32 %08x\" % zlib.crc32(open(\"memory\", \"rb\").read()))'")
        #expect(output == checksum)
    }

    @Test func aVMMServesItsOwnFaults() throws {
        defer { clean() }
        try compile("\(LibraryFiles.root)/Examples/vmm-thread/vmm.c", "vmm")
        let lines = try run("timeout 60 ./vmm").split(separator: "\n").map { line in line.split(separator: " ").map { String($0) } }
        try #require(lines.count == 2 && lines.allSatisfy { $0.count >= 4 }, "\(lines)")
        // "after the move: SUM SUM, N faults", and "without it: SUM SUM".
        let moved = lines[0].dropFirst(3).prefix(2).map { $0.replacing(",", with: "") }
        #expect(moved == Array(lines[1].dropFirst(2)), "\(lines)")
        #expect(Int(lines[0][5]) ?? 0 > 0, "its memory came by faults: \(lines)")
    }

    /// The binary interface only grows: each line of Fixtures/abi.txt stays, and a new one is written down there.
    @Test func theBinaryInterfaceIsAsItWas() throws {
        defer { clean() }
        try compile("\(LibraryFiles.fixtures)/abi.c", "abi")
        let actual = try run(
            """
            nm -D --defined-only '\(LibraryFiles.directory)/libpageferry.so.0' | awk '{print $3}' | sed 's/@@/ /' | LC_ALL=C sort; ./abi
            """)
        #expect(actual.split(separator: "\n") == (fileText("\(LibraryFiles.fixtures)/abi.txt") ?? "").split(separator: "\n"))
    }

    /// Fixtures/abi.txt speaks of all that the header has: structures, their fields, the values of enumerations.
    @Test func theBinaryInterfaceIsWrittenDownWhole() throws {
        defer { clean() }
        let written = Set(try #require(fileText("\(LibraryFiles.fixtures)/abi.txt")).split { $0 == "\n" || $0 == " " })
        let header = try run("cc -E -P -x c '\(LibraryFiles.directory)/pageferry.h' | tr -s ' \\n' ' '")
        var found = 0
        for match in header.matches(of: /(struct|enum) (pageferry_\w+) { ([^}]*) ?};/) {
            let (_, kind, type, body) = match.output
            if kind == "struct" { #expect(written.contains(type), "struct \(type)") }
            let names =
                kind == "struct"
                ? body.matches(of: /(\w+)(\[\d+\])?\s*[,;]/).map { "\(type).\($0.output.1)" }
                : body.matches(of: /PAGEFERRY_\w+/).map { String($0.output) }
            for name in names { #expect(written.contains(Substring(name)), "\(name) is not in abi.c and abi.txt") }
            found += names.count
        }
        #expect(found > 70, "the header was understood")
    }

    /// A program that was built against the header of 0.1 goes on with this library, and what lies behind its structures is not read.
    @Test func aProgramOfAnEarlierVersionGoesOn() throws {
        defer { clean() }
        let text = try run(
            """
            cc -std=c11 -Wall -Wextra -Werror -I'\(LibraryFiles.fixtures)/0.1' -o former '\(LibraryFiles.fixtures)/former.c' \
                $(pkg-config --libs pageferry) && timeout 60 ./former
            """)
        #expect(text == "as it was\n")
    }

    @Test(.enabled(if: access("/usr/bin/g++", X_OK) == 0)) func cPlusPlusTakesTheHeader() throws {
        defer { clean() }
        let text = try run(
            """
            g++ -std=c++11 -Wall -Wextra -Werror -pedantic -o plus '\(LibraryFiles.fixtures)/plus.cpp' $(pkg-config --cflags --libs pageferry) \
                && ./plus
            """)
        #expect(text.contains(": connect is NULL"), "\(text)")
    }

    /// It brings its own runtime: of shared libraries it needs those that Debian has.
    @Test func nothingOfAToolchainIsNeeded() throws {
        defer { clean() }
        let needed = try run("readelf -d '\(LibraryFiles.directory)/libpageferry.so.0' | sed -n 's/.*NEEDED.*\\[\\(.*\\)\\]/\\1/p'")
        let allowed: Set<Substring> = [
            "liburing.so.2", "libibverbs.so.1", "librdmacm.so.1", "libssl.so.3", "libcrypto.so.3", "libm.so.6", "libstdc++.so.6",
            "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2",
        ]
        #expect(Set(needed.split(separator: "\n")).subtracting(allowed) == [])
    }
}
