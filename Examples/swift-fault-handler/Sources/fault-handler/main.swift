// Pages memory in from a source, by demand: a fault handler.     fault-handler SOURCE BYTES
import HostMemory
import PageCore
import PageFerry
import StreamTransport
import Userfault

guard CommandLine.arguments.count == 3, let bytes = Int(CommandLine.arguments[2]) else { fatalError("usage: fault-handler SOURCE BYTES") }

// Shared memory: what this program sees, and what the session fills, are two mappings of one file.
let file = try MemoryFile.create(name: "paged-in", lengthBytes: bytes)
let memory = try MappedMemory(of: file, lengthBytes: bytes, access: .readWrite)
let userfault = try UserfaultDescriptor(required: [.sharedMemory, .removeEvents])
try userfault.register(address: memory.address, lengthBytes: bytes, modes: [.missing, .minor])
let regions = try DestinationRegions([
    DestinationRegion(
        name: "memory", guestAddress: memory.address, lengthBytes: bytes, pageSize: .fourKiB,
        userfault: try userfault.duplicated().release(), backing: .init(descriptor: try file.duplicated().release(), fileOffset: 0))
])

let opened = try DestinationConnector(to: StreamAddress(parsing: CommandLine.arguments[1]), configuration: .init()).accept(regions)
let session = DestinationSession(opened, regions: regions, machineState: nil, configuration: .init()) { notice in
    if case .ended(let reason?) = notice { fatalError(reason.description) }
}

// Nothing below knows that the memory was not there.
let checksum = memory.withBytes(0..<bytes) { span in
    span.byteOffsets.reduce(14_695_981_039_346_656_037 as UInt64) { sum, index in
        (sum ^ UInt64(span.unsafeLoad(fromByteOffset: index, as: UInt8.self))) &* 1_099_511_628_211
    }
}
session.join()
print("checksum \(String(checksum, radix: 16)), \(session.statistics.read().faults) faults")
