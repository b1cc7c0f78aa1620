import Verbs

/// The registered memory of a lane's messages: buffers that receive, then buffers that send, each `messageBytes` long.
@safe final class MessageBuffers {
    private let memory: UnsafeMutableRawPointer
    private var registration: MemoryRegistration?
    let key: UInt32

    init(_ domain: ProtectionDomain) throws(VerbsError) {
        let bytes = (VerbsConfiguration.receiveSlots + VerbsConfiguration.sendSlots) * VerbsConfiguration.messageBytes
        let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 4096)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: bytes)
        do throws(VerbsError) {
            let registered = try MemoryRegistration(
                domain, address: UInt(bitPattern: memory), lengthBytes: bytes, access: .localWrite)
            key = registered.localKey
            registration = consume registered
        } catch {
            unsafe memory.deallocate()
            throw error
        }
        unsafe self.memory = memory
    }

    /// Set when the device may still touch the memory at the end: it is then lost rather than handed to others.
    var isAbandoned = false

    deinit {
        registration = nil
        if !isAbandoned { unsafe memory.deallocate() }
    }

    /// A buffer that receives.
    ///
    /// SAFETY: `messageBytes` long; the device writes to it while it is posted.
    @unsafe func received(_ slot: Int) -> UnsafeMutableRawPointer {
        precondition(slot >= 0 && slot < VerbsConfiguration.receiveSlots, "a slot has its buffer")
        return unsafe memory + slot * VerbsConfiguration.messageBytes
    }

    /// A buffer that sends.
    ///
    /// SAFETY: `messageBytes` long; the device reads it until its completion.
    @unsafe func sending(_ slot: Int) -> UnsafeMutableRawPointer {
        precondition(slot >= 0 && slot < VerbsConfiguration.sendSlots, "a slot has its buffer")
        return unsafe memory + (VerbsConfiguration.receiveSlots + slot) * VerbsConfiguration.messageBytes
    }
}
