/// A decoder under test.
enum Target: String, CaseIterable {
    case frames
    case hello
    case regionTable = "region-table"
    case regionKeys = "region-keys"
    case writeTarget = "write-target"
    case residentPages = "resident-pages"
    case trace
    case handshake
    case handoffMessages = "handoff-messages"
    case handoffConnection = "handoff-connection"
    case firecrackerMessage = "firecracker-message"
    case processMaps = "process-maps"
    case qmpMessages = "qmp-messages"
    case qmpConnection = "qmp-connection"
    case qemuCommandLine = "qemu-command-line"
    case arguments
    /// A decoder with a seeded bug: a fuzzer that does not find it finds nothing.
    case canary

    /// Decodes `input` and checks what must hold of the outcome.
    func run(_ input: [UInt8]) {
        switch self {
        case .frames: WireTargets.frames(input)
        case .hello: WireTargets.hello(input)
        case .regionTable: WireTargets.regionTable(input)
        case .regionKeys: WireTargets.regionKeys(input)
        case .writeTarget: WireTargets.writeTarget(input)
        case .residentPages: WireTargets.residentPages(input)
        case .trace: TraceTarget.run(input)
        case .handshake: HandshakeTarget.run(input)
        case .handoffMessages: HandoffTargets.messages(input)
        case .handoffConnection: HandoffTargets.connection(input)
        case .firecrackerMessage: FirecrackerTarget.run(input)
        case .processMaps: ProcessMapsTarget.run(input)
        case .qmpMessages: QMPTargets.messages(input)
        case .qmpConnection: QMPTargets.connection(input)
        case .qemuCommandLine: QMPTargets.commandLine(input)
        case .arguments: ArgumentsTarget.run(input)
        case .canary: CanaryTarget.run(input)
        }
    }

    /// Valid inputs to begin with.
    var seeds: [[UInt8]] {
        switch self {
        case .frames: WireTargets.frameSeeds
        case .hello: WireTargets.helloSeeds
        case .regionTable: WireTargets.regionTableSeeds
        case .regionKeys: WireTargets.regionKeySeeds
        case .writeTarget: WireTargets.writeTargetSeeds
        case .residentPages: WireTargets.residentPageSeeds
        case .trace: TraceTarget.seeds
        case .handshake: HandshakeTarget.seeds
        case .handoffMessages: HandoffTargets.messageSeeds
        case .handoffConnection: HandoffTargets.connectionSeeds
        case .firecrackerMessage: FirecrackerTarget.seeds
        case .processMaps: ProcessMapsTarget.seeds
        case .qmpMessages: QMPTargets.messageSeeds
        case .qmpConnection: QMPTargets.connectionSeeds
        case .qemuCommandLine: QMPTargets.commandLineSeeds
        case .arguments: ArgumentsTarget.seeds
        case .canary: []
        }
    }
}
