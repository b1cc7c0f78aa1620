import PageCore
import PageEngine

/// Bytes of pages on their way, and what is to be taken back once they are sent.
///
/// `@safe`: holding the address does nothing; whoever sends follows it, within the promise of the memory that lent it.
@safe struct LentPages {
    /// The token of bytes that need not be taken back.
    static let notCounted: UInt64 = 0

    let bytes: UnsafeRawBufferPointer
    let token: UInt64
}

/// What a shard serves: it tells what pages hold, and lends their bytes for as long as a frame is on its way. Used by the shard's thread
/// alone; nothing here allocates.
protocol SessionMemory: ~Copyable, ContentClassifier {
    /// Whether looking at a page may mean waiting for it.
    var isFilledOnTouch: Bool { get }
    /// Set for good once pages cannot be had any more: whatever was classified since the last look is not to be sent.
    var failure: SessionError? { get }
    /// Whether one more frame can be looked at now. The push leaves some room for demands.
    func hasRoom(forPush isPush: Bool) -> Bool
    /// The bytes of a range that was classified as data just now.
    ///
    /// SAFETY: they stay as they are until they are taken back, or for as long as the memory lives when they are not counted.
    @unsafe mutating func lend(_ range: PageRange) -> LentPages
    /// Nobody references what was lent with `token` any more.
    mutating func takeBack(_ token: UInt64)
    /// The link is gone, and whatever was on its way.
    mutating func takeBackAll()
    /// Looks whether the memory is still what it was, while nobody asks for pages; sets `failure` when not.
    mutating func verify()
}

// For memory that is mapped, and final.
extension SessionMemory where Self: ~Copyable {
    var failure: SessionError? { nil }
    func hasRoom(forPush isPush: Bool) -> Bool { true }
    mutating func takeBack(_ token: UInt64) {}
    mutating func takeBackAll() {}
    mutating func verify() {}
}
