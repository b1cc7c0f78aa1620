import PageCore
import PageEngine

// Regions that are taken out while the session runs: a VMM unplugs memory.
extension DestinationCore {
    /// Gives a region's pages up. Its memory is let go as soon as nothing is being received there.
    mutating func take(out region: RegionIndex) {
        guard Int(region) < engine.layout.count else { return }
        guard !memory.isReleased(region) else { return notify(.regionRemoved(region)) }
        guard !leaving.contains(region) else { return }
        let range = engine.layout.wholeRange(region)
        memory.dropParked(range)
        engine.removed(range, &memory)
        leaving.append(region)
        noticeMemoryFailure()
    }

    /// The next region to be released, if there is one: nothing is being received there.
    func nextToRelease() -> RegionIndex? { leaving.first { !engine.isReceivingInPlace(into: $0) } }

    /// Lets go of a region's memory, and says so.
    ///
    /// - Precondition: its userfaultfd is not watched any more.
    mutating func release(_ region: RegionIndex) {
        leaving.removeAll { $0 == region }
        memory.unregister(region)
        // Who gave memory up there waits until that has been read.
        readLastEvents(Int(region))
        memory.release(region)
        noticeMemoryFailure()
        notify(.regionRemoved(region))
    }

    /// The pages of regions that were taken out before this daemon began.
    mutating func forgetReleased() {
        for region in 0..<RegionIndex(engine.layout.count) where memory.isReleased(region) {
            engine.removed(engine.layout.wholeRange(region), &memory)
        }
    }
}
