import PageCore
import PageEngine

/// Everything that distinguishes one simulated session from another, drawn from its seed: the same seed is the same
/// session on every host. Times in virtual nanoseconds, rates in bytes a microsecond.
struct Scenario {
    /// A link that is lost in the middle of whatever is going on.
    struct Mishap {
        var nanoseconds: Int
        /// Whether the source's daemon dies too: its memory and the session's secret stay, all else is forgotten.
        var isSourceLost: Bool
        /// After so many steps of the destination's daemon it dies, anywhere in a turn: guest memory, what the kernel has to hand
        /// out, and the record of settled pages stay. nil: it lives.
        var destinationSteps: Int?
        /// It dies instead when it has next copied pages out of a slab, and not put them on record yet.
        var isAtCopy: Bool
        /// Until the destination looks for the source.
        var pauseNanoseconds: Int
        /// When the source notices what the destination notices at once; nil: not before the destination is back.
        var noticeNanoseconds: Int?
    }

    /// A network that carries nothing for a while, in one direction or both: what is sent meanwhile is held back, and comes later
    /// if both sides have that much patience.
    struct Partition {
        var nanoseconds: Int
        var silencesToDestination: Bool
        var silencesToSource: Bool
        var durationNanoseconds: Int
        /// After so long without an answer a side gives the link up.
        var sourcePatienceNanoseconds: Int
        var destinationPatienceNanoseconds: Int
        /// From the end of the silence until what was held back is sent again.
        var retransmissionNanoseconds: Int
        /// Until the destination looks for the source, once it has given up.
        var pauseNanoseconds: Int
    }

    enum Pattern: CaseIterable { case sequential, random, strided, hotSet }

    let layout: RegionLayout
    let receivesInPlace: [Bool]
    /// Whether pushed pages of those regions go through a slab all the same.
    let copiesPush: [Bool]
    /// Pages in a hole, pages of zeros, of a hundred; the rest holds data.
    let holePercent: Int
    let zeroPercent: Int

    let laneCount: Int
    /// The bottleneck all lanes of a direction share, and the most one lane gets of it.
    let linkBytesPerMicrosecond: Int
    let laneBytesPerMicrosecond: Int
    let latencyNanoseconds: Int
    let jitterNanoseconds: Int
    /// The pieces in which payloads arrive.
    let chunkBytes: Int
    let laneQueueFrames: Int
    /// Bytes that may be on their way on a lane before its receiver takes some.
    let laneInFlightBytes: Int

    let source: SourceEngine.Configuration
    let mostWindowBytesPending: Int
    let mostBulkBytesPending: Int
    let window: WindowPolicy
    /// Session pages an earlier run needed, pulled first; empty where nothing is replayed.
    let replayed: [Range<Int>]
    let creditBytes: Int
    let outgoingLength: Int

    let processorCount: Int
    let accessesEach: Int
    let thinkNanoseconds: Int
    let writePercent: Int
    let removalCount: Int
    /// Threads of the guest that give pages up at the same time.
    let removingThreads: Int
    let mostRemovedPages: Int
    let removalIntervalNanoseconds: Int
    /// Whether the kernel hands out a fault before a removal that came first.
    let readsFaultsFirst: Bool
    /// How often the kernel refuses to fill guest memory without a reason we see.
    let refusalPercent: Int

    let sourceTurnNanoseconds: Int
    let destinationTurnNanoseconds: Int
    /// What a slow destination takes off its lanes in one turn.
    let bytesConsumedATurn: Int
    let guestStopNanoseconds: Int
    /// When a lane breaks for good, in a few sessions.
    let breakNanoseconds: Int?
    /// When the link is lost and found again, in the order of time.
    let mishaps: [Mishap]
    /// When the network falls silent, in the order of time.
    let partitions: [Partition]
    /// How often a source answers the destination's attempt to come back, and its answer is lost.
    let lostAnswers: Int
    /// How often an attempt that the destination has given up is heard late.
    let lateAttempts: Int

    var largestPageBytes: Int { layout.regions.map { $0.pageSize.bytes }.max() ?? 0 }

    init(_ random: inout SeededRandom) {
        let regions = Self.regions(&random)
        let isHuge = regions.contains { $0.pageSize == .twoMiB }
        // Draws below are in source order on purpose: a seed's session depends on it.
        guard let layout = try? RegionLayout(regions) else { preconditionFailure("a drawn layout is valid") }
        self.layout = layout
        // A guest that gives much up, a kernel that refuses much, and daemons that die over it.
        let isStorm = random.chance(percent: 12)
        // Daemons that die again and again.
        let isPlague = random.chance(percent: 12)
        receivesInPlace = regions.map { _ in random.chance(percent: isStorm ? 15 : 55) }
        holePercent = [0, 0, 10, 40][random.next(below: 4)]
        zeroPercent = [0, 5, 30, 60][random.next(below: 4)]

        laneCount = 1 + random.next(below: 4)
        let rates = [12, 125, 1250, 5000]
        linkBytesPerMicrosecond = rates[random.next(below: rates.count)]
        laneBytesPerMicrosecond =
            random.chance(percent: 50) ? linkBytesPerMicrosecond : max(6, linkBytesPerMicrosecond / (1 + random.next(below: 4)))
        latencyNanoseconds = [5_000, 20_000, 100_000, 2_000_000][random.next(below: 4)]
        jitterNanoseconds = latencyNanoseconds * random.next(below: 3) / 2
        chunkBytes = isHuge ? (256 << 10) + random.next(below: 512 << 10) : 1_000 + random.next(below: 24_000)
        laneQueueFrames = 10 + random.next(below: 54)
        let scale = isHuge ? 64 : 1
        laneInFlightBytes = 2 * chunkBytes + 64 + random.next(below: (128 << 10) * scale)

        var source = SourceEngine.Configuration()
        source.extentBytes = 4096 << random.next(below: 6)
        source.windowFrameBytes = 4096 << random.next(below: 5)
        source.demandQueueLength = 1 + random.next(below: 6)
        source.windowQueueLength = 1 + random.next(below: 6)
        source.prefetchQueueLength = source.windowQueueLength
        self.source = source
        mostWindowBytesPending = 8192 << random.next(below: 4)
        mostBulkBytesPending = 8192 << random.next(below: 6)
        let windowBytes = 4096 << random.next(below: 6)
        creditBytes = 4096 << random.next(below: 9)
        outgoingLength = 2 + random.next(below: random.chance(percent: 50) ? 3 : 60)

        processorCount = 1 + random.next(below: 16)
        accessesEach = 20 + random.next(below: 80)
        let transferNanoseconds = layout.totalBytes * 1000 / linkBytesPerMicrosecond + 4 * latencyNanoseconds
        thinkNanoseconds = max(100, transferNanoseconds * (1 + random.next(below: 8)) / (4 * accessesEach))
        writePercent = random.next(below: 60)
        removalCount = isStorm ? 40 + random.next(below: 40) : random.chance(percent: 60) ? 1 + random.next(below: 60) : 0
        removingThreads = 1 + random.next(below: 8)
        mostRemovedPages = 1 + random.next(below: 24)
        removalIntervalNanoseconds = max(100, transferNanoseconds / (1 + removalCount) / (1 + random.next(below: 4)))
        readsFaultsFirst = random.chance(percent: 50)
        refusalPercent = isStorm ? 90 : [0, 5, 50, 80][random.next(below: 4)]

        sourceTurnNanoseconds = 200 + random.next(below: 20_000)
        destinationTurnNanoseconds = 200 + random.next(below: 50_000)
        bytesConsumedATurn = chunkBytes * (1 + random.next(below: 16))
        guestStopNanoseconds = random.next(below: 4 * latencyNanoseconds)
        breakNanoseconds = random.chance(percent: 6) ? guestStopNanoseconds + random.next(below: 2 * transferNanoseconds) : nil
        window = random.chance(percent: 60) ? .adaptive(mostBytes: 8 * windowBytes) : WindowPolicy(windowBytes: windowBytes)
        replayed = random.chance(percent: 25) ? Self.trace(layout, &random) : []
        var mishaps: [Mishap] = []
        if breakNanoseconds == nil, isStorm || isPlague || random.chance(percent: 45) {
            for _ in 0..<(isPlague ? 5 : 1 + random.next(below: 5)) {
                mishaps.append(
                    Mishap(
                        nanoseconds: random.next(below: guestStopNanoseconds + (1 + random.next(below: 2)) * transferNanoseconds),
                        isSourceLost: random.chance(percent: 30),
                        destinationSteps: random.chance(percent: isStorm || isPlague ? 90 : 40) ? random.next(below: 30) : nil,
                        isAtCopy: random.chance(percent: 35), pauseNanoseconds: 1 + random.next(below: 40_000_000),
                        noticeNanoseconds: random.chance(percent: 50)
                            ? 0 : random.chance(percent: 60) ? random.next(below: 20_000_000) : nil))
            }
        }
        self.mishaps = mishaps.sorted { $0.nanoseconds < $1.nanoseconds }
        let lastNanoseconds = guestStopNanoseconds + 2 * transferNanoseconds
        partitions =
            breakNanoseconds == nil && random.chance(percent: 35)
            ? Self.partitions(before: lastNanoseconds, latencyNanoseconds, &random) : []
        lostAnswers = random.chance(percent: 40) ? random.next(below: 4) : 0
        lateAttempts = random.chance(percent: 40) ? random.next(below: 4) : 0
        copiesPush = regions.map { $0.pageSize == .fourKiB && random.chance(percent: 40) }
    }

    private static func partitions(before lastNanoseconds: Int, _ latencyNanoseconds: Int, _ random: inout SeededRandom) -> [Partition] {
        let patience = 8 * latencyNanoseconds + random.next(below: 20_000_000)
        var partitions: [Partition] = []
        for _ in 0..<(1 + random.next(below: 4)) {
            // Neither, never: one direction or both.
            let directions = 1 + random.next(below: 3)
            partitions.append(
                Partition(
                    nanoseconds: random.next(below: lastNanoseconds), silencesToDestination: directions & 1 != 0,
                    silencesToSource: directions & 2 != 0, durationNanoseconds: 1 + random.next(below: 3 * patience),
                    sourcePatienceNanoseconds: patience / 2 + random.next(below: 2 * patience),
                    destinationPatienceNanoseconds: patience / 2 + random.next(below: 2 * patience),
                    retransmissionNanoseconds: 1 + random.next(below: 2 * patience), pauseNanoseconds: 1 + random.next(below: 20_000_000)))
        }
        return partitions.sorted { $0.nanoseconds < $1.nanoseconds }
    }

    private static func trace(_ layout: RegionLayout, _ random: inout SeededRandom) -> [Range<Int>] {
        (0..<(1 + random.next(below: 40))).map { _ in
            let first = random.next(below: layout.totalPages)
            return first..<min(layout.totalPages, first + 1 + random.next(below: 40))
        }
    }

    private static func regions(_ random: inout SeededRandom) -> [RegionDescription] {
        let count = 1 + random.next(below: 3)
        let hugeNumber = random.chance(percent: 12) ? random.next(below: count) : -1
        return (0..<count).map { number in
            let isHuge = number == hugeNumber
            let size = isHuge ? PageSize.twoMiB : .fourKiB
            let pages = isHuge ? 1 + random.next(below: 6) : 8 + random.next(below: 400 / count)
            guard let region = try? RegionDescription(name: "region\(number)", lengthBytes: pages << size.shift, pageSize: size) else {
                preconditionFailure("a drawn region is valid")
            }
            return region
        }
    }

    // MARK: Bounds of virtual time

    /// The longest a message takes to be noticed by its receiver on an idle link.
    private var hopNanoseconds: Int {
        latencyNanoseconds + jitterNanoseconds + 4 * (sourceTurnNanoseconds + destinationTurnNanoseconds)
    }

    private func transferNanoseconds(bytes: Int) -> Int {
        let wire = bytes * 1000 / laneBytesPerMicrosecond + bytes * laneCount * 1000 / linkBytesPerMicrosecond
        // A lane with little room on the wire moves that much a latency, however fast the link.
        let trips = (bytes / laneInFlightBytes + 1) * (latencyNanoseconds + jitterNanoseconds)
        return wire + trips + (bytes / bytesConsumedATurn + 1) * laneCount * destinationTurnNanoseconds
    }

    /// No fault waits longer, counted from the later of itself and the guest's stop: everything that may lie in front
    /// of a demand on a lane and at the bottleneck, with room to spare.
    var faultBoundNanoseconds: Int {
        let frame = max(source.extentBytes, source.windowFrameBytes, largestPageBytes)
        let ahead =
            mostBulkBytesPending + mostWindowBytesPending + 2 * laneInFlightBytes + 3 * frame + processorCount * (largestPageBytes + 64)
        return 4 * (6 * hopNanoseconds + transferNanoseconds(bytes: ahead))
    }

    /// A destination that has heard nothing of an attempt for so long tries again.
    var attemptNanoseconds: Int { 12 * latencyNanoseconds + 1_000_000 }

    /// How often the link is lost at most, one way or another.
    private var mostLosses: Int { mishaps.count + 2 * partitions.count + lostAnswers + lateAttempts }

    /// No session lasts longer: every page on a round trip of its own.
    var sessionBoundNanoseconds: Int {
        let perPage = 4 * hopNanoseconds + 2 * transferNanoseconds(bytes: largestPageBytes + 64)
        // Every lost link may cost its pause, and all that was on its way once more.
        let pauses = mishaps.reduce(0) {
            $0 + $1.pauseNanoseconds + ($1.noticeNanoseconds ?? 0) + attemptNanoseconds + 4 * faultBoundNanoseconds
        }
        let silences = partitions.reduce(0) {
            $0 + $1.durationNanoseconds + $1.retransmissionNanoseconds + 2
                * ($1.pauseNanoseconds + attemptNanoseconds + 4 * faultBoundNanoseconds)
        }
        let attempts = (mostLosses + 1) * 8 * attemptNanoseconds
        return pauses + silences + attempts + guestStopNanoseconds + 1_000_000
            + (1 + mostLosses) * (layout.totalPages + removalCount + 16) * perPage + 4 * faultBoundNanoseconds
    }
}
