// Serves memory that exists nowhere until somebody touches it: a page source of one's own. Its words are the terms of a sequence, each
// computed from its place; it might as well decompress, decrypt, or ask a store for them.     page-source BYTES ADDRESS
//
// It serves one destination, then prints the checksum that a reader of all of it must have come to, and how much it made.
import PageCore
import PageFerry
import StreamTransport
import Synchronization

guard CommandLine.arguments.count == 3, let bytes = Int(CommandLine.arguments[1]) else { fatalError("usage: page-source BYTES ADDRESS") }

/// The word at an index: only every other page has any.
@Sendable func word(_ index: Int) -> UInt64 {
    index >> 9 & 1 == 1 ? 0 : (UInt64(index) &+ 1) &* 0x9E37_79B9_7F4A_7C15
}

let made = Atomic<Int>(0)
let layout = try RegionLayout([RegionDescription(name: "sequence", lengthBytes: bytes, pageSize: .fourKiB)])
let image = try SourceImage(generating: layout) { pages, bytes in
    made.add(pages.count, ordering: .relaxed)
    for offset in stride(from: 0, to: bytes.byteCount, by: 8) {
        bytes.storeBytes(of: word((pages.first << 12 + offset) >> 3), toByteOffset: offset, as: UInt64.self)
    }
}

let address = try StreamAddress(parsing: CommandLine.arguments[2])
let server = SourceServer(listener: try StreamListener(on: address), layout: layout, configuration: .init())
guard let opened = try server.nextSession(refused: { peer, error in print("\(peer) was refused: \(error)") }) else { fatalError() }
let session = SourceSession(opened, memory: image, machineState: nil, configuration: .init()) { notice in
    if case .ended(let reason?) = notice { fatalError(reason.description) }
}
session.guestStopped()  // The memory is final from the start.
session.join()
server.stop()

var checksum: UInt64 = 14_695_981_039_346_656_037
for index in 0..<(bytes / 8) {
    for byte in 0..<8 { checksum = (checksum ^ word(index) >> (8 * UInt64(byte)) & 0xFF) &* 1_099_511_628_211 }
}
print("checksum \(String(checksum, radix: 16)), \(made.load(ordering: .relaxed)) pages made")
