import TestSupport
import Testing

@testable import FirecrackerHandoff
@testable import NativeHandoff

/// Firecracker's one message, as its versions and forks have written it.
@Suite("Firecracker's message", .leavesNothing) struct FirecrackerMessageTests {
    private func regions(_ text: String) throws(HandoffError) -> [FirecrackerRegion] { try FirecrackerMessage.regions(Array(text.utf8)) }

    @Test(arguments: [
        // 1.10 and later, then before, then before there were huge pages.
        (#"[{"base_host_virt_addr":140737353973760,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]"#, UInt64(4096)),
        (#"[{"base_host_virt_addr":140737353973760,"size":134217728,"offset":0,"page_size_kib":2097152}]"#, 2 << 20),
        (#"[{"base_host_virt_addr":140737353973760,"size":134217728,"offset":0}]"#, 4096),
        // The deprecated field gone, a new one there; the old one taken at its word.
        (#" [ {"page_size":2097152,"offset":0,"size":134217728,"base_host_virt_addr":140737353973760,"node":{"a":[1]}} ] "#, 2 << 20),
        (#"[{"base_host_virt_addr":140737353973760,"size":134217728,"offset":0,"page_size_kib":4}]"#, 4096),
    ])
    func everyFieldSet(_ text: String, _ pageSizeBytes: UInt64) throws {
        let region = try #require(try regions(text).first)
        #expect(region.address == 140_737_353_973_760)
        #expect(region.lengthBytes == 134_217_728)
        #expect(region.fileOffset == 0)
        #expect(region.pageSizeBytes == pageSizeBytes)
    }

    @Test func numbersKeepAllTheirBits() throws {
        let text = #"[{"base_host_virt_addr":18446744073709547520,"size":9223372036854779904,"offset":9007199254740993}]"#
        let region = try #require(try regions(text).first)
        #expect(region.address == 18_446_744_073_709_547_520)
        #expect(region.lengthBytes == 9_223_372_036_854_779_904)
        #expect(region.fileOffset == 9_007_199_254_740_993)
    }

    @Test(arguments: [
        (#"[{"size":4096,"offset":0}]"#, "base_host_virt_addr"), (#"[{"base_host_virt_addr":4096,"offset":0}]"#, "size"),
        (#"[{"base_host_virt_addr":4096,"size":4096}]"#, "offset"), (#"[{"base_host_virt_addr":4096,"size":-1,"offset":0}]"#, "size"),
        (#"[{"base_host_virt_addr":"4096","size":4096,"offset":0}]"#, "base_host_virt_addr"),
        (#"[{"base_host_virt_addr":4096.5,"size":4096,"offset":0}]"#, "base_host_virt_addr"),
        (#"[{"base_host_virt_addr":4096,"size":null,"offset":0}]"#, "size"), (#"{"size":1}"#, "JSON array"), ("[1]", "JSON array"),
        ("[}", "JSON array"), ("[", "JSON array"), ("", "JSON array"), ("[\u{0}]", "JSON array"),
    ])
    func whatIsWrongIsNamed(_ text: String, _ part: String) {
        do throws(HandoffError) {
            _ = try regions(text)
            Issue.record("accepted")
        } catch {
            #expect(error.status == 2)
            #expect(error.description.contains(part), "\(error)")
        }
    }

    /// The end is found wherever the bytes are cut, brackets in strings notwithstanding.
    @Test func theEndIsFoundInPieces() throws {
        let array = Array(#" [{"a":"]}\"]","b":[[],{}]},{"c\\":"[{"}]"#.utf8)
        let text = array + Array("\n x".utf8)
        for pieceBytes in 1...text.count {
            var scanner = ArrayEndScanner()
            var scanned = 0
            var end: Int?
            while end == nil, scanned < text.count {
                let piece = text[scanned..<min(text.count, scanned + pieceBytes)]
                end = try scanner.scan(piece).map { scanned + $0 }
                scanned += piece.count
            }
            #expect(end == array.count)
        }
        var open = ArrayEndScanner()
        #expect(try open.scan(Array("[[]".utf8)) == nil)
    }

    @Test(arguments: ["GET / HTTP/1.1", "\"[]\"", "1", "PGFH"]) func somethingElseIsNoticedAtOnce(_ text: String) {
        var scanner = ArrayEndScanner()
        #expect(throws: HandoffError.self) { try scanner.scan(Array(text.utf8)) }
    }
}
