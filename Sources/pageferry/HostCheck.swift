import Foundation
import Glibc
import Uring
import Userfault
import Verbs

/// One thing that migration needs of a host, or profits from, and whether it is there.
struct CheckItem: Codable {
    enum Verdict: String, Codable {
        /// There.
        case good
        /// Not there; something else is used in its place, or only one kind of use is impossible.
        case limited
        /// Not there, and nothing works without it.
        case missing
    }

    var subject: String
    var verdict: Verdict
    var finding: String
    /// How to mend it; nil when there is nothing to mend.
    var remedy: String?
}

/// What this host can do.
struct HostCheck: Codable {
    var items: [CheckItem]
    var devices: [DeviceDescription]

    /// Whether sessions can be served here at all.
    var isUsable: Bool { !items.contains { $0.verdict == .missing } }

    init() {
        devices = (try? DeviceDescription.all()) ?? []
        items = Self.userfault() + Self.ring() + [Self.lockedMemory(), Self.hugePages(), Self.qemu()] + Self.rdma(devices)
    }

    private static func userfault() -> [CheckItem] {
        do throws(UserfaultError) {
            let features = try UserfaultDescriptor.supportedFeatures()
            var items = [CheckItem(subject: "userfaultfd", verdict: .good, finding: "available: \(features)")]
            if !features.isSuperset(of: .sharedMemory) {
                items.append(
                    CheckItem(
                        subject: "shared memory", verdict: .limited, finding: "no minor faults on shared memory",
                        remedy: "run Linux 5.14 or newer to take over QEMU guests"))
            }
            return items
        } catch {
            return [CheckItem(subject: "userfaultfd", verdict: .missing, finding: error.description, remedy: "needed on destinations only")]
        }
    }

    private static func ring() -> [CheckItem] {
        do throws(UringError) {
            let support = try RingSupport.probe()
            guard support.isSufficient else {
                return [
                    CheckItem(
                        subject: "io_uring", verdict: .missing, finding: "this kernel lacks operations the transports need",
                        remedy: "run Linux 5.19 or newer")
                ]
            }
            let copies = support.features.contains(.zeroCopySend) ? "with zero-copy send" : "without zero-copy send (Linux 6.1 has it)"
            return [CheckItem(subject: "io_uring", verdict: .good, finding: "available, \(copies)")]
        } catch {
            return [CheckItem(subject: "io_uring", verdict: .missing, finding: error.description)]
        }
    }

    private static func lockedMemory() -> CheckItem {
        if LockedMemory.isUnbounded {
            return CheckItem(subject: "locked memory", verdict: .good, finding: "no limit for this process")
        }
        return CheckItem(
            subject: "locked memory", verdict: .limited,
            finding: "RLIMIT_MEMLOCK is \((LockedMemory.limitBytes ?? 0) >> 10) KiB; RDMA pins the whole guest",
            remedy: "raise it for RDMA: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit")
    }

    private static func hugePages() -> CheckItem {
        let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
        let text = (try? String(contentsOfFile: path, encoding: .utf8))?.trimmingCharacters(in: .whitespacesAndNewlines)
        guard let free = text.flatMap({ Int($0) }) else {
            return CheckItem(subject: "2 MiB pages", verdict: .limited, finding: "this kernel has no hugetlbfs")
        }
        return CheckItem(subject: "2 MiB pages", verdict: .good, finding: "\(free) free; only guests on hugetlbfs need them")
    }

    private static func qemu() -> CheckItem {
        for directory in ["/usr/bin", "/usr/local/bin"] where mayUse("\(directory)/qemu-system-x86_64", X_OK) {
            let hasKVM = mayUse("/dev/kvm", R_OK | W_OK)
            return CheckItem(
                subject: "QEMU", verdict: .good, finding: "\(directory)/qemu-system-x86_64, \(hasKVM ? "KVM usable" : "no usable /dev/kvm")"
            )
        }
        return CheckItem(
            subject: "QEMU", verdict: .limited, finding: "no qemu-system-x86_64",
            remedy: "install it to migrate machines (Debian: qemu-system-x86); memory files and hand-offs work without")
    }

    private static func mayUse(_ path: String, _ mode: Int32) -> Bool {
        // SAFETY: the path is terminated and lives for the call.
        unsafe access(path, mode) == 0
    }

    // MARK: RDMA

    private static func rdma(_ devices: [DeviceDescription]) -> [CheckItem] {
        guard !devices.isEmpty else {
            let hasInterface = mayUse("/sys/class/infiniband_verbs", F_OK)
            return [
                CheckItem(
                    subject: "RDMA", verdict: .limited,
                    finding: "no device\(hasInterface ? "" : ", and the kernel's ib_uverbs is not loaded")",
                    remedy:
                        "--transport tcp works; for RDMA load the adapter's driver, or `rdma link add rxe0 type rxe netdev eth0` for soft-RoCE"
                )
            ]
        }
        var items: [CheckItem] = []
        if !mayUse("/dev/infiniband/rdma_cm", R_OK | W_OK) {
            items.append(
                CheckItem(
                    subject: "RDMA connections", verdict: .limited, finding: "/dev/infiniband/rdma_cm cannot be used",
                    remedy: "`modprobe rdma_ucm`, and give this user access to the file"))
        }
        for device in devices {
            for port in device.ports { items.append(item(device, port)) }
        }
        return items
    }

    private static func item(_ device: DeviceDescription, _ port: DeviceDescription.Port) -> CheckItem {
        let identifiers = port.identifiers.map { "\($0.index)=\($0.text)" }.joined(separator: " ")
        let finding =
            "\(port.state), \(port.linkLayer), MTU \(port.mtuBytes), \(device.mostReads) reads outstanding, GIDs \(identifiers.isEmpty ? "none" : identifiers)"
        let subject = "RDMA \(device.name) port \(port.number)"
        guard port.isActive else {
            return CheckItem(
                subject: subject, verdict: .limited, finding: finding, remedy: "bring its network interface up (`ip link set … up`)")
        }
        guard !device.addresses.isEmpty || port.linkLayer != "Ethernet" else {
            return CheckItem(subject: subject, verdict: .limited, finding: finding, remedy: "give its network interface an IP address")
        }
        return CheckItem(subject: subject, verdict: .good, finding: finding)
    }
}
