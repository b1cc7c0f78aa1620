import ArgumentParser
import Glibc
import Handoff
import PageFerry
import PageWire

/// Exit codes as <sysexits.h> has them.
enum ExitStatus: Int32 {
    case usage = 64
    case dataError = 65
    case noInput = 66
    case noHost = 68
    case unavailable = 69
    case software = 70
    case operatingSystem = 71
    case cannotCreate = 73
    case temporaryFailure = 75
    case protocolError = 76
    case noPermission = 77
    case configuration = 78
}

/// An error as an operator sees it: one line, and a code for scripts.
struct CommandFailure: Error {
    var text: String
    var status: ExitStatus

    init(_ text: String, _ status: ExitStatus) {
        self.text = text
        self.status = status
    }

    init(_ error: SessionError) {
        let status: ExitStatus =
            switch error {
            case .cannotConnect, .linkLost, .unknownSession: .unavailable
            case .versionMismatch, .notPageFerry, .wrongRole, .violation, .damagedFrame, .unexpectedFrame, .machineStateTooLarge:
                .protocolError
            case .regionMismatch: .configuration
            case .timedOut, .cancelled: .temporaryFailure
            case .unknownHost: .noHost
            case .cannotOpenMemory: .noInput
            case .unevenMemory: .dataError
            case .cannotKeepSession: .cannotCreate
            case .notTrusted: .noPermission
            case .badCredentials: .configuration
            case .memory: .operatingSystem
            case .processEnded: .software
            case .memoryLost: .temporaryFailure
            case .peerFailed(let failure):
                switch failure.code {
                case .versionMismatch, .protocolViolation, .wrongRole: .protocolError
                case .regionMismatch: .configuration
                case .busy, .cancelled: .temporaryFailure
                default: .unavailable
                }
            }
        self.init(error.description, status)
    }
}

extension ParsableCommand {
    /// Runs a command's body; a failure becomes one line on standard error and its exit code.
    func reportingFailure(_ body: () throws(CommandFailure) -> Void) throws {
        do throws(CommandFailure) {
            try body()
        } catch {
            Console.error(error.text)
            throw ExitCode(error.status.rawValue)
        }
    }
}
