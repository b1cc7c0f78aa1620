import Handoff
import HostMemory
import NativeHandoff
import PageFerry
import ProcessMemory
import StreamTransport

// One overload a module's error: what a library throws becomes the operator's line and exit code.

func attempt<Result: ~Copyable>(_ body: () throws(SessionError) -> Result) throws(CommandFailure) -> Result {
    do throws(SessionError) { return try body() } catch { throw CommandFailure(error) }
}

func attempt<Result: ~Copyable>(_ body: () throws(StreamError) -> Result) throws(CommandFailure) -> Result {
    do throws(StreamError) { return try body() } catch { throw CommandFailure(error) }
}

func attempt<Result: ~Copyable>(_ body: () throws(QemuError) -> Result) throws(CommandFailure) -> Result {
    do throws(QemuError) { return try body() } catch { throw CommandFailure(error) }
}

func attempt<Result: ~Copyable>(_ body: () throws(HandoffError) -> Result) throws(CommandFailure) -> Result {
    do throws(HandoffError) { return try body() } catch { throw CommandFailure(error) }
}

func attempt<Result: ~Copyable>(_ body: () throws(ProcessMemoryError) -> Result) throws(CommandFailure) -> Result {
    do throws(ProcessMemoryError) { return try body() } catch { throw CommandFailure(error) }
}

extension CommandFailure {
    init(_ error: ProcessMemoryError) {
        let status: ExitStatus =
            switch error {
            case .noProcess, .nothingToServe: .noInput
            case .notPermitted: .noPermission
            case .notStopped, .ran, .pagedByAnother: .temporaryFailure
            case .ended: .software
            case .tooManyRegions, .runsNotCounted: .configuration
            case .malformedMapping, .unreadable, .systemCall, .memory: .operatingSystem
            }
        self.init(error.description, status)
    }
}

extension CommandFailure {
    init(_ error: StreamError) {
        let status: ExitStatus =
            switch error {
            case .badAddress, .pathTooLong: .usage
            case .cannotResolve: .noHost
            case .addressInUse, .cannotListen, .notASocket: .cannotCreate
            case .ring: .operatingSystem
            default: .unavailable
            }
        self.init(error.description, status)
    }
}

extension CommandFailure {
    init(_ error: HandoffError) {
        let status: ExitStatus =
            switch error {
            case .alreadyListening, .notASocket: .cannotCreate
            case .nobodyListens, .timedOut, .connectionEnded: .unavailable
            case .systemCall: .operatingSystem
            default: .dataError
            }
        self.init(error.description, status)
    }

    init(_ error: QemuError) {
        let status: ExitStatus =
            switch error {
            case .cannotConnect: .noInput
            case .unusableCommand: .usage
            case .noMemoryBackend, .notShared, .unsupportedBackend, .missingCapability, .memoryWouldBeSent, .ambiguousMemory,
                .unusablePreload:
                .configuration
            case .cannotOpenMemory: .noPermission
            case .notQMP, .malformedMessage, .messageTooLong: .protocolError
            case .cannotStart, .systemCall: .operatingSystem
            case .notRunning, .migrationActive, .timedOut, .busy: .temporaryFailure
            default: .software
            }
        self.init(error.description, status)
    }
}
