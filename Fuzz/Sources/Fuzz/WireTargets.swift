import PageCore

@testable import PageWire

/// Frames and their payloads. What decodes encodes to the same bytes again, reserved fields excepted, which are ignored.
enum WireTargets {
    static func encoded(_ header: FrameHeader) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { raw in
            var span = raw.mutableBytes
            header.encode(into: &span)
        }
        return bytes
    }

    static func frame(_ kind: FrameKind, _ payload: [UInt8] = []) -> [UInt8] {
        encoded(FrameHeader(kind, payloadBytes: payload.count)) + payload
    }

    static let layout = try! RegionLayout([
        RegionDescription(name: "ram", lengthBytes: 1000 * 4096, pageSize: .fourKiB),
        RegionDescription(name: "huge", lengthBytes: 16 << 21, pageSize: .twoMiB),
    ])

    // MARK: Frames

    /// A stream of frames, one behind the other, as a peer may send them.
    static func frames(_ input: [UInt8]) {
        var rest = input[...]
        while rest.count >= FrameHeader.byteCount {
            let head = Array(rest.prefix(FrameHeader.byteCount))
            let header: FrameHeader
            do throws(FrameError) {
                header = try FrameHeader(decoding: head.span.bytes)
            } catch {
                require(!error.description.isEmpty, "a refused frame says why")
                return
            }
            require(encoded(header) == head, "a header encodes to what it was decoded from")
            require(header.payloadBytes <= FrameLimits.mostPageBytes, "a payload is bounded")
            if layout.contains(header.range) {
                let pages = layout.sessionPages(header.range)
                require(pages.lowerBound >= 0 && pages.upperBound <= layout.totalPages, "a range inside its region is inside its session")
            }
            rest = rest.dropFirst(FrameHeader.byteCount)
            guard rest.count >= header.payloadBytes else { return }
            payload(Array(rest.prefix(header.payloadBytes)), of: header)
            rest = rest.dropFirst(header.payloadBytes)
        }
    }

    private static func payload(_ bytes: [UInt8], of header: FrameHeader) {
        switch header.kind {
        case .hello: hello(bytes)
        case .regionTable: regionTable(bytes)
        case .regionKeys: regionKeys(bytes)
        case .grant: writeTarget(bytes)
        case .residentPages: residentPages(bytes)
        case .failure:
            let failure = Failure(header: header, payload: bytes)
            require(failure.text.utf8.count <= Failure.longestTextBytes, "a peer's text is bounded")
            require(
                failure.text.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control },
                "a peer's text holds no control characters")
            let again = failure.encoded()
            require(Failure(header: again.header, payload: again.payload) == failure, "a failure says the same when it is passed on")
        default: return
        }
    }

    static var frameSeeds: [[UInt8]] {
        let payloads: [(FrameKind, [UInt8])] = [
            (.hello, helloSeeds[0]), (.regionTable, regionTableSeeds[0]), (.regionKeys, regionKeySeeds[0]), (.grant, writeTargetSeeds[0]),
            (.failure, Array("no such machine\u{1B}[31m".utf8)), (.residentPages, residentPageSeeds[0]), (.accept, []),
            (.machineState, [1, 2, 3]),
        ]
        let ranges = [FrameKind.request, .zeroPages, .prefetch, .removed, .scanned].map {
            encoded(FrameHeader($0, reason: .window, range: PageRange(region: 1, first: 2, count: 3)))
        }
        return payloads.map { frame($0.0, $0.1) } + ranges + [payloads.flatMap { frame($0.0, $0.1) }]
    }

    // MARK: Handshake

    static func hello(_ input: [UInt8]) {
        guard let hello = refusing({ () throws(FrameError) in try Hello(decoding: input) }) else { return }
        require(Int(hello.lane) < Hello.mostLanes && (1...Hello.mostLanes).contains(Int(hello.laneCount)), "lanes are bounded")
        require(hello.encoded() == cleared(input, [15, 20, 21, 22, 23]), "a hello encodes to what it was decoded from")
        _ = hello.commonVersion(with: Hello.supportedVersions)
    }

    static var helloSeeds: [[UInt8]] {
        [(SessionRole.source, UInt8(0), UInt8(3)), (.destination, 2, 16)].map { role, lane, laneCount in
            Hello(
                role: role, lane: lane, laneCount: laneCount, features: .machineState,
                session: SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)
            ).encoded()
        }
    }

    static func regionTable(_ input: [UInt8]) {
        guard let layout = refusing({ () throws(FrameError) in try RegionTable.decode(input) }) else { return }
        require((1...RegionLayout.mostRegions).contains(layout.count), "regions are bounded")
        require(layout.totalBytes <= RegionLayout.mostBytes, "memory is bounded")
        require(RegionTable.encode(layout) == input, "a table encodes to what it was decoded from")
    }

    static var regionTableSeeds: [[UInt8]] {
        [
            RegionTable.encode(layout),
            RegionTable.encode(try! RegionLayout([RegionDescription(name: "", lengthBytes: 4096, pageSize: .fourKiB)])),
        ]
    }

    static func regionKeys(_ input: [UInt8]) {
        guard let keys = refusing({ () throws(FrameError) in try RegionKeys.decode(input) }) else { return }
        for key in keys { _ = layout.contains(key.range) }
        guard keys.count <= RegionKeys.mostKeys else { return }
        let reserved = keys.indices.flatMap { [32 * $0 + 2, 32 * $0 + 3] }
        require(RegionKeys.encode(keys[...]) == cleared(input, reserved), "keys encode to what they were decoded from")
    }

    static var regionKeySeeds: [[UInt8]] {
        let keys = (0..<3).map {
            RegionKey(range: PageRange(region: RegionIndex($0), first: 5 * $0, count: 7), address: 0x7f00_0000_1000, key: 0x1234)
        }
        return [RegionKeys.encode(keys[...]), RegionKeys.encode(keys[..<1])]
    }

    static func writeTarget(_ input: [UInt8]) {
        guard let target = refusing({ () throws(FrameError) in try WriteTarget(decoding: input) }) else { return }
        require(target.encoded() == cleared(input, [12, 13, 14, 15]), "a target encodes to what it was decoded from")
    }

    static var writeTargetSeeds: [[UInt8]] { [WriteTarget(address: 0x7f00_0000_1000, key: 77).encoded()] }

    // MARK: Resident pages

    /// The first two bytes choose how many pages the session has.
    static func residentPages(_ input: [UInt8]) {
        guard input.count >= 2 else { return }
        let pageCount = Int(input[0]) << 8 | Int(input[1]) + 1
        let payload = Array(input.dropFirst(2))
        var pages = PageBitmap(pageCount: pageCount)
        guard let next = refusing({ () throws(FrameError) in try ResidentPages.decode(payload, into: &pages, next: 0) }) else { return }
        require(next == pageCount, "one payload tells of all pages of a small session")
        let again = ResidentPages.encode(pages)
        require(again.count == 1 && again[0].count <= payload.count, "no spelling is shorter than the encoder's")
        var same = PageBitmap(pageCount: pageCount)
        let end = refusing { () throws(FrameError) in try ResidentPages.decode(again[0], into: &same, next: 0) }
        require(end == pageCount, "what the encoder writes is accepted")
        require((0..<pageCount).allSatisfy { pages.contains($0) == same.contains($0) }, "the same pages come out")
        if again[0].count == payload.count, again[0][12] == payload[12] {
            require(again[0] == payload, "a form has one spelling")
        }
    }

    static var residentPageSeeds: [[UInt8]] {
        [[3..<40, 50..<51], [0..<100], []].map { (runs: [Range<Int>]) in
            var pages = PageBitmap(pageCount: 100)
            for run in runs { pages.insert(run) }
            return [0, 99] + ResidentPages.encode(pages)[0]
        } + [
            {
                var pages = PageBitmap(pageCount: 256)
                for page in stride(from: 0, to: 256, by: 2) { pages.insert(page) }
                return [0, 255] + ResidentPages.encode(pages)[0]
            }()
        ]
    }

    // MARK: Helpers

    /// The decoded value, or nil when the input was refused, with a line that says why.
    static func refusing<Value>(_ decode: () throws(FrameError) -> Value) -> Value? {
        do throws(FrameError) {
            return try decode()
        } catch {
            require(!error.description.isEmpty && !error.description.contains("\n"), "a refusal is one line")
            return nil
        }
    }

    /// `bytes` with the bytes at `reserved` set to zero.
    static func cleared(_ bytes: [UInt8], _ reserved: [Int]) -> [UInt8] {
        var bytes = bytes
        for offset in reserved { bytes[offset] = 0 }
        return bytes
    }
}
