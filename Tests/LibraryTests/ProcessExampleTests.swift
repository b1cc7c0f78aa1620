import Testing

/// The process example: a worker is stopped in the middle of its work, its memory served, and another program goes on with the work at
/// the same addresses.
extension ExampleTests {
    @Test func theWorkOfAProcessGoesOn() throws {
        defer { clean() }
        let examples = "\(LibraryFiles.root)/Examples/process"
        let built = try run(
            """
            cc -std=c11 -Wall -Wextra -Werror -o worker '\(examples)/worker.c' && \
            cc -std=c11 -Wall -Wextra -Werror -o resume '\(examples)/resume.c' $(pkg-config --cflags --libs pageferry)
            """)
        #expect(built.isEmpty, "\(built)")
        let output = try run(
            """
            ./worker 1024 6000 2500 >worker.out 2>&1 & worker=$!
            while ! grep -q '^State:.*T' /proc/$worker/status && kill -0 $worker; do sleep 0.02; done
            '\(LibraryFiles.pageferry)' source --pid $worker --listen unix:socket --layout layout --sessions 1 2>source.log & source=$!
            while { [ ! -S socket ] || [ ! -s layout ]; } && kill -0 $source; do sleep 0.02; done
            timeout 120 ./resume unix:socket layout $(sed -n 's/state //p' worker.out); status=$?
            kill -KILL $worker
            [ $status = 0 ] || { kill $source; cat source.log; }
            wait $source || status=$?
            [ $status = 0 ]
            """)
        let undisturbed = try run("./worker 1024 6000")
        let lines = output.split(separator: "\n")
        try #require(lines.count >= 2, "\(output)")
        #expect(lines[0].hasPrefix("done ") && lines[0] == undisturbed.split(separator: "\n").last, "\(output)\(undisturbed)")
        let words = lines[1].split(separator: " ")
        #expect(lines[1].hasPrefix("went on at step 2500; ") && Int(words[5]) ?? 0 > 0, "its memory came by faults: \(output)")
    }
}
