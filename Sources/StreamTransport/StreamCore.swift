import Glibc
import PageTransport
import Uring

/// What a `StreamTransport` is made of. Apart from it because a deinit cannot change its own value, and the end of a
/// transport has to: operations in flight are cancelled and awaited.
struct StreamCore: ~Copyable {
    var ring: Ring
    var lanes: FixedTable<Lane>
    var watches: DescriptorWatches
    var completions: CompletionBuffer
    let configuration: StreamConfiguration
    /// The ring no longer answers: operations in flight cannot be awaited.
    var isBroken = false
    /// What the last `poll`'s spin was good for; see `PageTransport.didSpinInVain`.
    var didSpinInVain = false

    private static let batchCompletions = 64

    /// What `limitBursts` was told last.
    private var burstLimitBytes: Int?

    init(lanes connections: consuming StreamLanes, configuration: StreamConfiguration) throws(StreamError) {
        precondition(connections.count > 0, "a transport has an urgent lane")
        configuration.check()
        do {
            ring = try Ring(entries: 128, completionEntries: 512)
        } catch { throw .ring(error) }
        let canZeroCopy = ring.support().features.contains(.zeroCopySend)
        lanes = FixedTable(capacity: connections.count)
        for index in 0..<connections.count {
            let descriptor = connections.take(index)
            let isTCP = SocketOption.isTCP(descriptor.raw)
            if index == 0, isTCP, configuration.urgentUnsentBytes > 0 {
                SocketOption.limitUnsent(descriptor.raw, bytes: configuration.urgentUnsentBytes)
            }
            lanes.append(
                Lane(
                    index: LaneIndex(UInt8(index)), descriptor: descriptor, configuration: configuration,
                    zeroCopy: canZeroCopy && isTCP))
        }
        watches = DescriptorWatches(
            capacity: StreamTransport.mostWatches, tag: OperationToken.Kind.watch.rawValue,
            housekeepingToken: OperationToken(.housekeeping).rawValue)
        completions = CompletionBuffer(capacity: Self.batchCompletions)
        self.configuration = configuration
    }
}

extension StreamCore {
    /// See `PageTransport.limitBursts`. The urgent lane carries nothing that would need it.
    mutating func limitBursts(toBytes bytes: Int?) {
        guard bytes != burstLimitBytes else { return }
        burstLimitBytes = bytes
        let limit = max(4096, bytes ?? .max)
        for index in 1..<max(1, lanes.count) {
            lanes[index].limitBursts(
                receiveBytes: min(limit, configuration.mostReceiveBytes),
                gatherBytes: min(limit, configuration.mostGatherBytes))
        }
    }
}
