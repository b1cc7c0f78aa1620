import Foundation
import Glibc
import TestSupport
import Testing

/// Whether a compiler and the program are here; prints what is missing.
private let handoffExampleIsPossible: Bool = {
    for path in ["/usr/bin/cc", LibraryFiles.pageferry] where access(path, X_OK) != 0 {
        print("skipped: the header of the hand-off; there is no \(path)")
        return false
    }
    return true
}()

/// The header for VMMs that hand their memory over, and the example that uses nothing else, built and run as a stranger would.
@Suite(.leavesNothing, .serialized, .enabled(if: handoffExampleIsPossible)) struct HandoffExampleTests {
    private let scratch: String
    private static let include = "\(LibraryFiles.root)/Sources/CHandoffClient/include"
    private static let warnings = "-Wall -Wextra -Werror -pedantic -Wconversion"

    init() throws {
        var template = Array("/tmp/pf-handoff-test.XXXXXX".utf8CString)
        try #require(mkdtemp(&template) != nil)
        scratch = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private func clean() { try? FileManager.default.removeItem(atPath: scratch) }

    /// Runs a shell's commands in the scratch directory; what they print on both streams.
    private func run(_ commands: String, location: SourceLocation = #_sourceLocation) throws -> String {
        let status = try shell("cd '\(scratch)' && (\n\(commands)\n) >output 2>&1")
        let text = fileText("\(scratch)/output") ?? ""
        #expect(status == 0, "\(text)", sourceLocation: location)
        return text
    }

    /// Whole translation units of nothing but the header, whose functions are all used.
    @Test(arguments: ["cc -std=c99", "cc -std=c11 -O2", "c++ -x c++ -std=c++11", "c++ -x c++ -std=c++20 -O2"])
    func theHeaderIsClean(_ compiler: String) throws {
        defer { clean() }
        guard access("/usr/bin/\(compiler.split(separator: " ")[0])", X_OK) == 0 else { return print("skipped: there is no \(compiler)") }
        let unit = """
            #include "pageferry-handoff.h"
            #include <stdlib.h>
            int main(int count, char **arguments) {
                static struct pageferry_handoff handoff;
                pageferry_handoff_init(&handoff, arguments[count - 1], 10);
                if (pageferry_handoff_connect(&handoff) == 0) return 1;
                if (pageferry_handoff_anonymous(&handoff, "ram", NULL, 4096) >= 0 || pageferry_handoff_ready(&handoff) == 0) return 2;
                if (pageferry_handoff_remove(&handoff, 0) == 0 || pageferry_handoff_reattach(&handoff) == 0) return 3;
                if (pageferry_handoff_wait(&handoff, 0) != PAGEFERRY_HANDOFF_ENDED) return 4;
                pageferry_handoff_close(&handoff);
                puts(handoff.error);
                return EXIT_SUCCESS;
            }
            """
        try Data(unit.utf8).write(to: URL(filePath: "\(scratch)/unit.c"))
        let text = try run("\(compiler) \(Self.warnings) -I'\(Self.include)' -o unit unit.c && ./unit /nobody-listens-here")
        #expect(text.hasPrefix("cannot reach the page daemon at '/nobody-listens-here': No such file"))
    }

    /// A VMM with two slots, of which one is unplugged; its daemon is killed and replaced after that, and as often as is said.
    /// The source hears that all is there, and every byte is right.
    @Test(arguments: [0, 1, 3]) func aVMMWithoutALibrary(_ kills: Int) throws {
        defer { clean() }
        let bytes = (0..<(1 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 12) }
        try Data(bytes).write(to: URL(filePath: "\(scratch)/memory"))
        let text = try run(
            """
            cc -std=c11 \(Self.warnings) -pthread -I'\(Self.include)' -o vmm '\(LibraryFiles.root)/Examples/c/handoff-vmm.c' || exit
            pageferry='\(LibraryFiles.pageferry)'
            $pageferry source --memory memory --memory memory --listen unix:socket --sessions 1 2>source.log & source=$!
            waits() { tries=3000; while ! eval "$1"; do kill -0 $2 && [ $((tries -= 1)) -gt 0 ] || exit 1; sleep 0.02; done; }
            daemon() { $pageferry destination --connect unix:socket --handoff handoff --state state --no-push 2>>destination.log & destination=$!; }
            trap 'status=$?; kill -9 $source $destination $vmm; cat source.log destination.log vmm.log; exit $status' EXIT
            waits '[ -S socket ]' $source
            daemon
            waits '[ -S handoff ]' $destination
            mkfifo input
            timeout 120 ./vmm handoff 1048576 1048576 <input >sums 2>vmm.log & vmm=$!
            exec 9>input
            waits 'grep -q "ready to unplug" vmm.log' $vmm
            echo >&9
            waits 'grep -q unplugged vmm.log' $vmm
            grep -q 'region 1 was taken out' destination.log || exit 1
            # What the daemon holds of the slots: one file, one mapping, one userfaultfd with the session and one beside it.
            ls -l /proc/$destination/fd | grep -c 'memfd:slot' >held
            grep -c 'memfd:slot' /proc/$destination/maps >>held
            round=0
            while [ $round -lt \(kills) ]; do
                kill -9 $destination; wait $destination
                daemon
                round=$((round + 1))
                waits '[ $(grep -c "attached again" vmm.log) = $round ]' $vmm
            done
            echo >&9
            wait $vmm && wait $destination && wait $source || exit 1
            trap - EXIT
            echo held: $(cat held); cat sums
            """)
        let checksum = bytes.reduce(14_695_981_039_346_656_037 as UInt64) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 }
        let hexadecimal = String(checksum, radix: 16)
        let expected = "held: 2 1\nchecksum \(String(repeating: "0", count: 16 - hexadecimal.count))\(hexadecimal)\n"
        #expect(text.hasSuffix(expected), "\(text)")
    }
}
