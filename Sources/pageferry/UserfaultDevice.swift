import Glibc

/// /dev/userfaultfd, opened for a QEMU that may not open a userfaultfd itself and inherits this.
struct UserfaultDevice: ~Copyable {
    /// Nil where this process may not open it either; QEMU's own try says what is missing then.
    let descriptor: Int32?

    init(isWanted: Bool = true) {
        guard isWanted else {
            descriptor = nil
            return
        }
        // SAFETY: the path is terminated and lives for the call.
        let opened = unsafe open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)
        descriptor = opened < 0 ? nil : opened
    }

    deinit {
        if let descriptor { close(descriptor) }
    }
}
