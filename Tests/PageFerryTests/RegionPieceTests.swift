import TestSupport
import Testing
import Userfault

@testable import PageFerry

/// A region mapped in several runs of addresses: which byte is where, and installs across the seams.
@Suite(.leavesNothing) struct RegionPieceTests {
    /// 4 bytes at 200, then 3 at 100, then 2 at 300.
    private let pieces = RegionPiece.list([
        .init(guestAddress: 200, lengthBytes: 4), .init(guestAddress: 100, lengthBytes: 3), .init(guestAddress: 300, lengthBytes: 2),
    ])
    private let addresses: [UInt] = [200, 201, 202, 203, 100, 101, 102, 300, 301]

    @Test func everyAddressHasItsByte() {
        for address in UInt(0)..<400 {
            let found = pieces.compactMap { $0.offset(of: address) }
            #expect(found == addresses.indices.filter { addresses[$0] == address })
        }
    }

    @Test func runsOfAddressesAreCutToAPiece() {
        for start in UInt(95)..<310 {
            for end in (start + 1)..<312 {
                for (number, piece) in pieces.enumerated() {
                    let inside = addresses.indices.filter {
                        (piece.startBytes..<piece.startBytes + piece.lengthBytes).contains($0) && (start..<end).contains(addresses[$0])
                    }
                    let expected = inside.isEmpty ? nil : inside.first!..<(inside.last! + 1)
                    if piece.offsets(from: start, to: end) != expected { Issue.record("piece \(number), \(start) to \(end)") }
                }
            }
        }
    }

    /// Every range, with an obstacle at every byte or none: each byte before it is installed once, at its address.
    @Test(arguments: [true, false]) func installsGoPieceByPiece(_ isNew: Bool) {
        for low in 0..<9 {
            for high in (low + 1)...9 {
                for obstacle in low...high {
                    var installed: [UInt] = []
                    let outcome = pieces.install(low..<high) { address, offset, lengthBytes in
                        #expect(addresses[low + offset] == address)
                        for index in 0..<lengthBytes {
                            guard low + offset + index < obstacle else {
                                return index == 0 ? .retryAfterEvents : .partially(doneBytes: index, obstacle: .retryAfterEvents)
                            }
                            installed.append(address + UInt(index))
                        }
                        return isNew ? .installed : .alreadyPresent
                    }
                    #expect(installed == Array(addresses[low..<obstacle]))
                    let expected: InstallOutcome =
                        if obstacle == high {
                            isNew ? .installed : .alreadyPresent
                        } else if obstacle == low {
                            .retryAfterEvents
                        } else {
                            .partially(doneBytes: obstacle - low, obstacle: .retryAfterEvents)
                        }
                    #expect(outcome == expected, "\(low) to \(high), obstacle at \(obstacle)")
                }
            }
        }
    }

    @Test(arguments: [
        (InstallOutcome.vmmGone, InstallObstacle.vmmGone), (.unregistered, .unregistered), (.failed(code: 5), .failed(code: 5)),
    ])
    func whatStopsTheSecondPieceStopsTheWhole(_ outcome: InstallOutcome, _ obstacle: InstallObstacle) {
        let answer = pieces.install(0..<9) { address, _, _ in address == 100 ? outcome : .alreadyPresent }
        #expect(answer == .partially(doneBytes: 4, obstacle: obstacle))
    }
}
