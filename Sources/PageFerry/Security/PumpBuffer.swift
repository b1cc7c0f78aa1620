import Glibc

/// Bytes on their way through a pump: filled from one side, emptied to the other, refilled once empty.
///
/// SAFETY: the memory belongs to this value, and every access lies within its bounds.
@safe struct PumpBuffer: ~Copyable {
    private let memory: UnsafeMutableRawBufferPointer
    private var start = 0
    private var end = 0

    init(bytes: Int) { unsafe memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64) }

    deinit { unsafe memory.deallocate() }

    var isEmpty: Bool { start == end }
    var hasRoom: Bool { unsafe end < memory.count }

    /// Where more may be written, behind what is there; valid until the next change.
    var room: UnsafeMutableRawBufferPointer { unsafe UnsafeMutableRawBufferPointer(rebasing: memory[end...]) }
    /// What is there; valid until the next change.
    var content: UnsafeRawBufferPointer { unsafe UnsafeRawBufferPointer(rebasing: memory[start..<end]) }

    /// So many bytes have been written to `room`.
    mutating func filled(_ count: Int) {
        precondition(unsafe count >= 0 && count <= memory.count - end, "within the room")
        end += count
    }

    /// So many bytes of `content` are done with.
    mutating func drained(_ count: Int) {
        precondition(count >= 0 && count <= end - start, "within the content")
        start += count
        if start == end { (start, end) = (0, 0) }
    }

    mutating func removeAll() { (start, end) = (0, 0) }
}
