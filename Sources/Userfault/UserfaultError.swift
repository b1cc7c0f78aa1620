import Glibc

/// Why a userfaultfd could not be opened, adopted or used.
public enum UserfaultError: Error, Sendable, Hashable {
    /// Neither userfaultfd(2) nor /dev/userfaultfd may be used by this process.
    case notPermitted
    /// The kernel was built without userfaultfd.
    case notSupported
    /// The kernel lacks these features.
    case missingFeatures(UserfaultFeatures)
    /// A descriptor that was handed over is something else; `link` is what it is.
    case notUserfault(descriptor: Int32, link: String)
    /// A descriptor that was handed over has not made its `UFFDIO_API` handshake.
    case notInitialized(descriptor: Int32)
    /// The range could not be registered: not aligned, not mapped, or of another userfaultfd.
    case rangeRefused(address: UInt, lengthBytes: Int, code: Int32)
    /// `call` failed with `code`, an errno.
    case systemCall(call: StaticName, code: Int32)

    /// The calls named in errors.
    public enum StaticName: String, Sendable {
        case open = "userfaultfd(2)"
        case handshake = "UFFDIO_API"
        case unregister = "UFFDIO_UNREGISTER"
        case wake = "UFFDIO_WAKE"
        case read = "reading a userfaultfd"
        case poll = "poll(2) on a userfaultfd"
        case flags = "fcntl(2) on a userfaultfd"
        case inspect = "reading /proc/self/fd"
        case duplicate = "duplicating a userfaultfd"
    }
}

extension UserfaultError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .notPermitted:
            "this process may not open a userfaultfd: run as root, set vm.unprivileged_userfaultfd=1, "
                + "or give it read and write access to /dev/userfaultfd"
        case .notSupported:
            "this kernel has no userfaultfd: use one built with CONFIG_USERFAULTFD=y"
        case .missingFeatures(let features):
            "this kernel's userfaultfd lacks \(features): use a newer kernel (6.1 or later)"
        case .notUserfault(let descriptor, let link):
            "descriptor \(descriptor) is '\(link)', not a userfaultfd: hand over the one the range is registered with"
        case .notInitialized(let descriptor):
            "userfaultfd \(descriptor) has not made its UFFDIO_API handshake: register the range before handing it over"
        case .rangeRefused(let address, let lengthBytes, let code):
            "cannot register 0x\(String(address, radix: 16))+\(lengthBytes) with the userfaultfd: \(text(of: code)); "
                + "it must be mapped, page-aligned and not registered elsewhere"
        case .systemCall(let call, let code):
            "\(call.rawValue) failed: \(text(of: code))"
        }
    }
}

/// The system's text for an errno. Allocates; for messages only.
private func text(of code: Int32) -> String {
    // SAFETY: glibc's strerror returns a terminated string, kept for this thread until its next call.
    unsafe String(cString: strerror(code))
}
