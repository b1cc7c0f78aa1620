import Userfault

/// A run of a region's pages, and where the process that runs the guest has it.
struct RegionPiece: Sendable, Hashable {
    /// The first of its bytes, of the region's.
    var startBytes: Int
    var lengthBytes: Int
    var guestAddress: UInt

    /// One after the other, as the region's pages are.
    static func list(_ pieces: [DestinationRegion.Piece]) -> ContiguousArray<RegionPiece> {
        var start = 0
        var list: ContiguousArray<RegionPiece> = []
        for piece in pieces {
            list.append(RegionPiece(startBytes: start, lengthBytes: piece.lengthBytes, guestAddress: piece.guestAddress))
            start += piece.lengthBytes
        }
        return list
    }

    /// The region's byte at an address; nil for an address outside this piece.
    func offset(of address: UInt) -> Int? {
        guard address >= guestAddress, address - guestAddress < UInt(lengthBytes) else { return nil }
        return startBytes + Int(address - guestAddress)
    }

    /// The region's bytes of this piece inside a run of addresses; nil when there are none.
    func offsets(from start: UInt, to end: UInt) -> Range<Int>? {
        let low = max(start, guestAddress)
        let high = min(end, guestAddress + UInt(lengthBytes))
        guard low < high else { return nil }
        return startBytes + Int(low - guestAddress)..<startBytes + Int(high - guestAddress)
    }
}

extension ContiguousArray<RegionPiece> {
    /// Installs a range of the region's bytes, piece by piece, in order.
    ///
    /// - Parameter step: installs at an address what lies `offset` bytes into the range.
    /// - Returns: as one install answers that reaches as far.
    @inline(__always)
    func install(_ bytes: Range<Int>, _ step: (_ address: UInt, _ offset: Int, _ lengthBytes: Int) -> InstallOutcome) -> InstallOutcome {
        if count == 1 { return step(self[0].guestAddress + UInt(bytes.lowerBound), 0, bytes.count) }
        var doneBytes = 0
        var isAnyNew = false
        for piece in self {
            let low = Swift.max(bytes.lowerBound, piece.startBytes)
            let high = Swift.min(bytes.upperBound, piece.startBytes + piece.lengthBytes)
            guard low < high else { continue }
            let outcome = step(piece.guestAddress + UInt(low - piece.startBytes), low - bytes.lowerBound, high - low)
            let obstacle: InstallObstacle
            switch outcome {
            case .installed, .alreadyPresent:
                isAnyNew = isAnyNew || outcome == .installed
                doneBytes += high - low
                continue
            case .partially(let more, let met): return .partially(doneBytes: doneBytes + more, obstacle: met)
            case .retryAfterEvents: obstacle = .retryAfterEvents
            case .vmmGone: obstacle = .vmmGone
            case .unregistered: obstacle = .unregistered
            case .failed(let code): obstacle = .failed(code: code)
            }
            return doneBytes == 0 ? outcome : .partially(doneBytes: doneBytes, obstacle: obstacle)
        }
        return isAnyNew ? .installed : .alreadyPresent
    }
}
