import Glibc

/// The process of a machine that is taken over: our child, or one that somebody else has started.
enum QemuHost {
    case child(QemuProcess)
    case foreign(AdoptedQemu)

    var process: pid_t {
        switch self {
        case .child(let child): child.process
        case .foreign(let adopted): adopted.process
        }
    }

    /// Readable once the process has ended.
    var descriptor: Int32 {
        switch self {
        case .child(let child): child.descriptor
        case .foreign(let adopted): adopted.processDescriptor
        }
    }

    /// Waits for its end.
    ///
    /// - Returns: its exit code, or 128 and its signal, or 0 of a process whose code is its parent's to know; nil when it still runs at
    ///   the end of the time.
    func waitForEnd(timeoutMilliseconds: Int32) -> Int32? {
        switch self {
        case .child(let child): child.waitForEnd(timeoutMilliseconds: timeoutMilliseconds)
        case .foreign(let adopted): adopted.waitForEnd(timeoutMilliseconds: timeoutMilliseconds) ? 0 : nil
        }
    }

    /// Why it ended; nil while it runs.
    var endError: QemuError? {
        switch self {
        case .child(let child): child.endError
        case .foreign(let adopted): adopted.waitForEnd(timeoutMilliseconds: 0) ? .endedElsewhere : nil
        }
    }

    func signal(_ number: Int32) {
        switch self {
        case .child(let child): child.signal(number)
        case .foreign(let adopted): adopted.signal(number)
        }
    }
}
