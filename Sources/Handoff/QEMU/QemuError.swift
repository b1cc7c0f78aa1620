import Glibc

/// Why a QEMU could not be driven. One line each: what is wrong, and how to mend it.
public enum QemuError: Error, Sendable, Hashable {
    case cannotConnect(path: String, code: Int32)
    case notQMP(path: String)
    case connectionLost
    case timedOut(waitingFor: String)
    case messageTooLong(bytes: Int)
    case malformedMessage
    /// QEMU refused a command; class and text are its own.
    case refused(command: String, text: String)
    case missingCapability(String)
    case notRunning(status: String)
    case migrationActive(status: String)
    case noMemoryBackend
    case notShared(backend: String)
    case unsupportedBackend(backend: String, type: String)
    case cannotOpenMemory(backend: String, reason: String)
    case migrationFailed(String)
    case guestNotRecovered(status: String)
    case unusableCommand(String)
    case cannotStart(program: String, code: Int32)
    case ended(status: Int32)
    case systemCall(String, code: Int32)
}

extension QemuError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .cannotConnect(let path, let code):
            "cannot connect to QEMU at \(path): \(text(of: code)); start it with -qmp unix:\(path),server=on,wait=off"
        case .notQMP(let path):
            "\(path) does not speak QMP; give the path of QEMU's -qmp socket"
        case .connectionLost:
            "QEMU closed its QMP connection: it has ended, or another program took it over"
        case .timedOut(let what):
            "QEMU did not answer in time: waiting for \(what)"
        case .messageTooLong(let bytes):
            "QEMU sent a message of more than \(bytes) bytes; this is no QMP socket"
        case .malformedMessage:
            "QEMU sent a message that is not JSON; this is no QMP socket"
        case .refused(let command, let text):
            "QEMU refused '\(command)': \(text)"
        case .missingCapability(let name):
            "this QEMU does not know the migration capability '\(name)'; use QEMU 7.2 or newer"
        case .notRunning(let status):
            "the guest is not running (its status is '\(status)'); resume it first"
        case .migrationActive(let status):
            "a migration is under way already (its status is '\(status)'); wait for its end or cancel it"
        case .noMemoryBackend:
            "the guest's RAM has no memory backend; start QEMU with -object memory-backend-file,id=ram,size=…,mem-path=/dev/shm/NAME,share=on -machine memory-backend=ram"
        case .notShared(let backend):
            "the memory backend '\(backend)' is not shared; start QEMU with share=on on it (memory-backend-file or memory-backend-memfd)"
        case .unsupportedBackend(let backend, let type):
            "the memory backend '\(backend)' is a \(type); use memory-backend-file or memory-backend-memfd with share=on"
        case .cannotOpenMemory(let backend, let reason):
            "cannot open the memory of backend '\(backend)': \(reason); run as the user that runs QEMU, or as root"
        case .migrationFailed(let text):
            "QEMU's migration failed: \(text)"
        case .guestNotRecovered(let status):
            "the guest could not be resumed here (its status is '\(status)'); try 'cont' in its monitor"
        case .unusableCommand(let reason):
            "the command after '--' cannot be used: \(reason)"
        case .cannotStart(let program, let code):
            "cannot start \(program): \(text(of: code))"
        case .ended(let status):
            "QEMU ended with status \(status) before the guest ran here; see its own message above"
        case .systemCall(let call, let code):
            "\(call) failed: \(text(of: code))"
        }
    }
}

/// The system's text for an errno.
private func text(of code: Int32) -> String {
    // SAFETY: glibc's strerror returns a terminated string, kept for this thread until its next call.
    unsafe String(cString: strerror(code))
}
