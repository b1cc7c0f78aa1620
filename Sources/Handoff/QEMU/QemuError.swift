import Glibc

/// Why a QEMU could not be driven. One line each: what is wrong, and how to mend it.
public enum QemuError: Error, Sendable, Hashable {
    case cannotConnect(path: String, code: Int32)
    case notQMP(path: String)
    /// Connected, but not greeted: QEMU serves one QMP client at a time.
    case busy(path: String)
    case connectionLost
    case timedOut(waitingFor: String)
    case messageTooLong(bytes: Int)
    case malformedMessage(String)
    /// QEMU refused a command; the text is its own.
    case refused(command: String, text: String)
    case missingCapability(String)
    case notRunning(status: String)
    case migrationActive(status: String)
    case noMemoryBackend
    case notShared(backend: String)
    case unsupportedBackend(backend: String, type: String)
    case cannotOpenMemory(backend: String, reason: String)
    /// Several mappings could be this backend's, and QEMU did not say which is.
    case ambiguousMemory(backend: String)
    /// This version sends the backend's contents with the machine state, whatever it is told.
    case memoryWouldBeSent(backend: String, version: QemuVersion)
    case migrationFailed(String)
    case guestNotRecovered(status: String)
    case unusableCommand(String)
    case unusablePreload(path: String)
    case cannotStart(program: String, code: Int32)
    /// It ended before the guest ran here; the last lines it wrote to its standard error, when they were kept.
    case ended(status: Int32, lastLines: String = "")
    /// The destination's QEMU, which somebody else has started, has ended.
    case endedElsewhere
    case notIncoming(status: String)
    case memoryOfNoBackend(String)
    /// The guest must not be resumed before its machine state is there.
    case notLoaded
    /// The guest ran again while it migrated.
    case notStopped(status: String)
    case systemCall(String, code: Int32)
}

extension QemuError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .cannotConnect(let path, let code):
            "cannot connect to QEMU at \(path): \(text(of: code)); start it with -qmp unix:\(path),server=on,wait=off"
        case .notQMP(let path):
            "\(path) does not speak QMP; give the path of QEMU's -qmp socket"
        case .busy(let path):
            "QEMU does not answer at \(path): it is stuck, or another program uses that socket; end that program, or give QEMU a second -qmp"
        case .connectionLost:
            "QEMU's QMP connection is lost: it has ended or its monitor was closed; start it again, or connect again"
        case .timedOut(let what):
            "QEMU did not answer in time: waited for \(what); see whether it is stopped or overloaded, then try again"
        case .messageTooLong(let bytes):
            "QEMU sent a message of more than \(bytes) bytes; check that the socket is QEMU's -qmp socket"
        case .malformedMessage(let what):
            "QEMU sent \(what); check that the socket is QEMU's -qmp socket"
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
        case .ambiguousMemory(let backend):
            "several mappings of QEMU could be the memory backend '\(backend)'; give each backend a mem-path of its own"
        case .memoryWouldBeSent(let backend, let version):
            "QEMU \(version) sends the memory of backend '\(backend)' itself; use memory-backend-file with share=on in place of memory-backend-memfd"
        case .migrationFailed(let text):
            "QEMU's migration failed: \(text)"
        case .guestNotRecovered(let status):
            "the guest could not be resumed here (its status is '\(status)'); try 'cont' in its monitor"
        case .unusableCommand(let reason):
            "the command after '--' cannot be used: \(reason)"
        case .unusablePreload(let path):
            "the preload library '\(path)' cannot be read, or its path has a colon or a space; give the path of libpageferry-preload.so"
        case .cannotStart(let program, let code):
            "cannot start \(program): \(text(of: code))"
        case .ended(let status, let lastLines):
            if lastLines.isEmpty {
                "QEMU ended with status \(status) before the guest ran here; see its own message above"
            } else {
                "QEMU ended with status \(status) before the guest ran here: \(lastLines)"
            }
        case .endedElsewhere:
            "QEMU has ended before the guest ran here; see its own messages, where it was started"
        case .notIncoming(let status):
            "QEMU does not wait for a migration (its status is '\(status)'); start it with -incoming defer"
        case .memoryOfNoBackend(let text):
            "QEMU's memory backends and what was handed over do not match: \(text); set PAGEFERRY_RAM and PAGEFERRY_RAM_COUNT to all of its backends"
        case .notLoaded:
            "the machine state is not loaded yet; the guest can only be resumed after it"
        case .notStopped(let status):
            "the guest ran again during its migration (its status is '\(status)'), so what was sent is worth nothing; leave it to pageferry until the end"
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
