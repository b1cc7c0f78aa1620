import HostMemory
import PageTransport
import PageWire

/// One buffer a lane for page bytes that cannot go straight to their place: `FrameLimits.mostPageBytes` each.
struct Slabs: ~Copyable {
    private let memory: MappedMemory

    init(laneCount: Int) throws(SessionError) {
        do throws(HostMemoryError) {
            memory = try MappedMemory(anonymousBytes: laneCount * FrameLimits.mostPageBytes)
        } catch {
            throw .memory(error.description)
        }
    }

    /// Where the transport may put the payload of the next `pages` frame of a lane.
    func target(_ lane: LaneIndex) -> PayloadTarget {
        // SAFETY: lanes are below the count given at start, and a payload is never longer than one slab (frame codec).
        unsafe .memory(memory.pointer + Int(lane.rawValue) * FrameLimits.mostPageBytes)
    }

    /// The address of a byte in a lane's slab.
    func address(_ lane: Int, _ byteOffset: Int) -> UInt {
        memory.address + UInt(lane * FrameLimits.mostPageBytes + byteOffset)
    }
}
