import PageTransport
import PageWire

/// One buffer a lane for the payload of a control frame, `FrameLimits.mostControlBytes` each.
///
/// SAFETY: `@safe` because the memory never leaves this type except as a payload target, which the transport fills
/// within `mostControlBytes` (checked by the frame codec) and returns before `copy` reads it.
@safe struct ControlBuffers: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer

    init(laneCount: Int) {
        unsafe memory = UnsafeMutableRawBufferPointer.allocate(byteCount: laneCount * FrameLimits.mostControlBytes, alignment: 64)
    }

    deinit { unsafe memory.deallocate() }

    /// Where the transport may put the payload of the next control frame of a lane.
    func target(_ lane: LaneIndex) -> PayloadTarget {
        let offset = Int(lane.rawValue) * FrameLimits.mostControlBytes
        // SAFETY: lanes are below the count given at start; the precondition of the subscript checks it.
        return unsafe .memory(memory.baseAddress! + memory[offset...].startIndex)
    }

    /// A copy of the payload that arrived last on a lane.
    func copy(_ lane: LaneIndex, byteCount: Int) -> [UInt8] {
        let offset = Int(lane.rawValue) * FrameLimits.mostControlBytes
        return unsafe Array(memory[offset..<(offset + byteCount)])
    }
}
