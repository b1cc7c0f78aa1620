import FirecrackerHandoff
import Handoff
import NativeHandoff

extension AwaitedMemory {
    /// What the next daemon must know of a Firecracker's memory; nil for other memory, and for a process that cannot be seen.
    borrowing func firecracker() throws(CommandFailure) -> DestinationState.Firecracker? {
        guard let process = firecrackerProcess, let startTicks = AdoptedQemu.startTicks(of: process) else { return nil }
        let kept = try attempt { () throws(HandoffError) in try KeptMemory.keep(regions) { _, _ in } }
        return DestinationState.Firecracker(
            machine: DestinationState.Machine(process: process, startTicks: startTicks), regions: kept)
    }

    /// The memory of a Firecracker whose daemon has died. It keeps its own descriptor of the userfaultfd and cannot be asked for it.
    static func reclaimed(_ left: DestinationState.Firecracker) throws(CommandFailure) -> AwaitedMemory {
        guard let process = AdoptedQemu(process: left.machine.process, startTicks: left.machine.startTicks) else {
            throw CommandFailure(
                "the Firecracker whose memory was being filled has ended; remove the state directory's content and start again", .software)
        }
        return try attempt { () throws(HandoffError) in
            let connection = try FirecrackerConnection(again: process.process)
            var userfault: Int32? = try connection.takeUserfault(of: process.process)
            let regions = try HandedOverRegions(kept: left.regions) { _ in userfault.take() }
            return AwaitedMemory(.firecracker(connection), regions)
        }
    }
}
