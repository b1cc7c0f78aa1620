@testable import FirecrackerHandoff
@testable import NativeHandoff

/// Firecracker's message: where it ends, and what it says.
enum FirecrackerTarget {
    static func run(_ input: [UInt8]) {
        let end = end(input, cutAt: input.count)
        for cut in 0..<min(input.count, 64) { require(self.end(input, cutAt: cut) == end, "the end is where it is, however the bytes come") }
        guard let end else { return }
        require(input[end - 1] == UInt8(ascii: "]") || input[end - 1] == UInt8(ascii: "}"), "an array ends with its bracket")
        do throws(HandoffError) {
            let regions = try FirecrackerMessage.regions(Array(input[..<end]))
            require(regions.count <= input.count / 10, "each region is spelled out")
        } catch {
            require(error.status != 0 && !error.description.contains("\n"), "a refusal is one line, and no success")
        }
    }

    /// Where the array ends in bytes that come in two pieces; nil when it does not, or is none.
    private static func end(_ input: [UInt8], cutAt cut: Int) -> Int? {
        var scanner = ArrayEndScanner()
        do throws(HandoffError) {
            if let end = try scanner.scan(input[..<cut]) { return end }
            return try scanner.scan(input[cut...]).map { cut + $0 }
        } catch {
            return nil
        }
    }

    static let seeds: [[UInt8]] = [
        #"[{"base_host_virt_addr":140737353973760,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]"#,
        #" [{"base_host_virt_addr":1,"size":2,"offset":3},{"a":"]\"","b":[null]}] "#,
    ].map { Array($0.utf8) }
}
