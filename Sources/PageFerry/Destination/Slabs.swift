import HostMemory
import PageTransport
import PageWire

/// Buffers for page bytes that cannot go straight to their place: one a lane, or one a piece that is fetched.
struct Slabs: ~Copyable, Sendable {
    private let memory: MappedMemory
    private let bytesEach: Int

    init(count: Int, bytesEach: Int = FrameLimits.mostPageBytes) throws(SessionError) {
        self.bytesEach = bytesEach
        do throws(HostMemoryError) {
            memory = try MappedMemory(anonymousBytes: count * bytesEach)
        } catch {
            throw .memory(error.description)
        }
    }

    /// Where the transport may put the payload of the next `pages` frame of a lane.
    func target(_ lane: LaneIndex) -> PayloadTarget {
        // SAFETY: lanes are below the count given at start, and a payload is never longer than one slab (frame codec).
        unsafe .memory(memory.pointer + Int(lane.rawValue) * bytesEach)
    }

    /// The address of a byte in a slab.
    func address(_ number: Int, _ byteOffset: Int) -> UInt {
        memory.address + UInt(number * bytesEach + byteOffset)
    }
}
