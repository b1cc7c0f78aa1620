import Handoff
import NativeHandoff
import PageCore

/// Memory that a VMM has handed over, and the connection that tells of its end.
struct AwaitedMemory: ~Copyable {
    let connection: HandoffConnection
    let regions: HandedOverRegions

    private static let regionsTimeoutNanoseconds: UInt64 = 30_000_000_000

    /// Waits for a VMM. One that comes for another reason, with memory that another daemon has served, is sent away.
    ///
    /// - Parameters:
    ///   - again: whether such memory is just what is awaited.
    ///   - isCancelled: asked a few times a second.
    /// - Returns: nil when cancelled.
    static func receive(
        _ listener: borrowing HandoffListener, again: Bool, isCancelled: () -> Bool
    ) throws(CommandFailure) -> AwaitedMemory? {
        while true {
            do throws(HandoffError) {
                let connection = try listener.accept(timeoutNanoseconds: 200_000_000)
                let regions = try connection.receiveRegions(again: again, timeoutNanoseconds: regionsTimeoutNanoseconds)
                return AwaitedMemory(connection: connection, regions: regions)
            } catch .timedOut(let step) where step.hasPrefix("waiting for a VMM to connect") {
                if isCancelled() { return nil }
            } catch .wrongOccasion {
                continue
            } catch {
                throw CommandFailure(error)
            }
        }
    }
}
