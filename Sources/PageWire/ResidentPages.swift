import PageCore

/// Which pages a peer has, told by a destination to the source it has found again, and by a source to a destination that has memory
/// to make ready: the payloads of `residentPages` frames, in order.
///
/// A payload is the first session page it speaks of (64 bits), how many (32 bits), a form (8 bits), and the pages: as runs
/// (form 0), alternately not resident and resident, each length as a LEB128 number; or as a bitmap (form 1), the lowest bit
/// first. Whichever is shorter, so that no memory costs more than a bit a page.
public enum ResidentPages {
    /// Pages of one payload, the last one excepted: their bitmap fits in a control frame.
    public static let pagesPerFrame = 1 << 18
    /// The most pages of which a source tells in the handshake, 1 TiB of small ones: before a destination has compared the regions it
    /// keeps no more than a bit each of them.
    public static let mostToldPages = 1 << 28
    private static let headBytes = 13
    private static let runsForm: UInt8 = 0
    private static let bitmapForm: UInt8 = 1

    /// The payloads that tell of all pages of a bitmap.
    public static func encode(_ pages: borrowing PageBitmap) -> [[UInt8]] {
        var payloads: [[UInt8]] = []
        for first in stride(from: 0, to: pages.pageCount, by: pagesPerFrame) {
            payloads.append(encode(pages, first..<min(pages.pageCount, first + pagesPerFrame)))
        }
        return payloads
    }

    private static func encode(_ pages: borrowing PageBitmap, _ range: Range<Int>) -> [UInt8] {
        var writer = PayloadWriter()
        writer.integer(UInt64(range.lowerBound))
        writer.integer(UInt32(range.count))
        let bitmapBytes = (range.count + 7) / 8
        if let runs = encodeRuns(pages, range, mostBytes: bitmapBytes) {
            writer.integer(runsForm)
            return writer.bytes + runs
        }
        writer.integer(bitmapForm)
        var bitmap = [UInt8](repeating: 0, count: bitmapBytes)
        var from = range.lowerBound
        while let page = pages.firstSet(in: from..<range.upperBound) {
            let offset = page - range.lowerBound
            bitmap[offset >> 3] |= 1 << UInt8(offset & 7)
            from = page + 1
        }
        return writer.bytes + bitmap
    }

    /// - Returns: nil when they would be longer than `mostBytes`.
    private static func encodeRuns(_ pages: borrowing PageBitmap, _ range: Range<Int>, mostBytes: Int) -> [UInt8]? {
        var bytes: [UInt8] = []
        var from = range.lowerBound
        var isResident = false
        while from < range.upperBound {
            let rest = from..<range.upperBound
            let end = (isResident ? pages.firstClear(in: rest) : pages.firstSet(in: rest)) ?? range.upperBound
            append(UInt64(end - from), to: &bytes)
            guard bytes.count < mostBytes else { return nil }
            from = end
            isResident.toggle()
        }
        return bytes
    }

    private static func append(_ value: UInt64, to bytes: inout [UInt8]) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    /// Reads one payload into `pages`.
    ///
    /// - Parameter next: the session page it must begin with.
    /// - Returns: the session page the following payload must begin with; `pages.pageCount` after the last.
    public static func decode(_ payload: [UInt8], into pages: inout PageBitmap, next: Int) throws(FrameError) -> Int {
        let malformed = FrameError.malformedPayload(kind: .residentPages)
        var reader = PayloadReader(payload, of: .residentPages)
        let first = try reader.integer(UInt64.self)
        let count = Int(try reader.integer(UInt32.self))
        let form = try reader.integer(UInt8.self)
        guard first == UInt64(next), next < pages.pageCount, count == min(pagesPerFrame, pages.pageCount - next) else {
            throw malformed
        }
        switch form {
        case runsForm: try decodeRuns(&reader, next..<(next + count), &pages)
        case bitmapForm: try decodeBitmap(&reader, next..<(next + count), &pages)
        default: throw malformed
        }
        try reader.finish()
        return next + count
    }

    private static func decodeRuns(
        _ reader: inout PayloadReader, _ range: Range<Int>, _ pages: inout PageBitmap
    ) throws(FrameError) {
        var from = range.lowerBound
        var isResident = false
        while from < range.upperBound {
            let length = try length(&reader)
            // Only the first run may be empty: everything else has one spelling.
            guard length <= range.upperBound - from, length > 0 || (from == range.lowerBound && !isResident) else {
                throw .malformedPayload(kind: .residentPages)
            }
            if isResident { pages.insert(from..<(from + length)) }
            from += length
            isResident.toggle()
        }
    }

    private static func length(_ reader: inout PayloadReader) throws(FrameError) -> Int {
        var value = 0
        // Runs are shorter than a payload's pages: three groups of seven bits hold them.
        for shift in [0, 7, 14] {
            let byte = try reader.integer(UInt8.self)
            value |= Int(byte & 0x7F) << shift
            if byte & 0x80 == 0 {
                guard byte != 0 || shift == 0 else { break }
                return value
            }
        }
        throw .malformedPayload(kind: .residentPages)
    }

    private static func decodeBitmap(
        _ reader: inout PayloadReader, _ range: Range<Int>, _ pages: inout PageBitmap
    ) throws(FrameError) {
        for first in stride(from: range.lowerBound, to: range.upperBound, by: 8) {
            var byte = try reader.integer(UInt8.self)
            let count = min(8, range.upperBound - first)
            guard count == 8 || byte >> UInt8(count) == 0 else { throw .malformedPayload(kind: .residentPages) }
            while byte != 0 {
                pages.insert(first + byte.trailingZeroBitCount)
                byte &= byte - 1
            }
        }
    }
}
