import CShims
import Glibc

/// Descriptors that the service manager passed to this process at its start, by name (sd_listen_fds_with_names(3)): what a
/// process before this one had put into the store. Those that nobody takes are closed at the end of this value's life.
public struct StoredDescriptors: ~Copyable, Sendable {
    /// In the order in which they came; -1 once taken.
    private var descriptors: [(name: String, descriptor: Int32)] = []

    /// The first descriptor that is passed (SD_LISTEN_FDS_START).
    private static let first: Int32 = 3
    private static let most: Int32 = 4096

    /// What `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES` say, when it is said to this process; none otherwise. Takes the
    /// variables out of the environment and sets close-on-exec. Call before other threads run, and once.
    public static func fromEnvironment() -> StoredDescriptors {
        let names = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
        let values = names.map { name -> String? in
            // SAFETY: names are terminated literals; the value is copied at once, and nobody changes it meanwhile.
            let value = unsafe getenv(name).map { unsafe String(cString: $0) }
            unsafe unsetenv(name)
            return value
        }
        guard values[0].flatMap({ Int32($0) }) == getpid() else { return StoredDescriptors() }
        return StoredDescriptors(count: values[1] ?? "", names: values[2] ?? "")
    }

    private init() {}

    init(count: String, names: String, first: Int32 = Self.first) {
        guard let count = Int32(count), (1...Self.most).contains(count) else { return }
        let names = names.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        for number in 0..<count {
            let name = Int(number) < names.count ? names[Int(number)] : ""
            let descriptor = first + number
            guard fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 else { continue }
            descriptors.append((name, descriptor))
        }
    }

    deinit {
        for (_, descriptor) in descriptors where descriptor >= 0 { close(descriptor) }
    }

    public var isEmpty: Bool { descriptors.allSatisfy { $0.descriptor < 0 } }

    /// The names of those not yet taken.
    public var names: [String] { descriptors.filter { $0.descriptor >= 0 }.map(\.name) }

    /// The descriptor of that name, now the caller's; nil when there is none.
    public mutating func take(_ name: String) -> Int32? {
        guard let index = descriptors.firstIndex(where: { $0.name == name && $0.descriptor >= 0 }) else { return nil }
        defer { descriptors[index].descriptor = -1 }
        return descriptors[index].descriptor
    }
}
