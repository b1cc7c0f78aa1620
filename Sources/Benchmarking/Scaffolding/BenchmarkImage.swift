import Demonstration
import HostMemory
import PageCore

/// A memory file full of data for sources, and mappings of it for floors; removed at the end of its life.
final class BenchmarkImage: Sendable {
    let file: MemoryImage
    let lengthBytes: Int

    init(lengthBytes: Int, dataBytes: Int? = nil) throws(BenchmarkError) {
        self.lengthBytes = lengthBytes
        file = try orBenchmarkError { try MemoryImage(lengthBytes: lengthBytes, dataBytes: dataBytes ?? lengthBytes) }
        Leftovers.expect(file.path)
    }

    deinit { Leftovers.remove(file.path) }

    /// A mapping of its own, all its pages in the page tables.
    func mapped() throws(BenchmarkError) -> MappedMemory {
        try orBenchmarkError {
            let mapping = try MappedMemory(
                of: try MemoryFile(path: file.path, access: .readWrite), lengthBytes: lengthBytes, access: .readWrite)
            try mapping.populate()
            return mapping
        }
    }
}
