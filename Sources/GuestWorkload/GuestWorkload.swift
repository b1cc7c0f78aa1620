import Glibc

/// The program that runs inside the demonstration's guest, as its only load.
///
/// `GuestWorkload make-disk PATH BYTES` writes the known disk's content; `GuestWorkload run PORT DISK TMPFS-FILE` works until
/// the line "STOP" comes from the port, then prints its verdict:
/// - T lines every 10 ms: number of the tick, the guest's clock in nanoseconds, pages of work done so far;
/// - BAD lines for whatever is not as it was left;
/// - DONE with all counts.
@main
enum GuestWorkload {
    static func main() {
        let arguments = CommandLine.arguments
        switch arguments.dropFirst().first {
        case "make-disk" where arguments.count == 4:
            guard let byteCount = Int(arguments[3]), KnownDisk.make(arguments[2], byteCount: byteCount) else { exit(1) }
        case "run" where arguments.count == 5:
            Workload(port: arguments[2], diskPath: arguments[3], sumPath: arguments[4]).run()
        default:
            print("usage: GuestWorkload make-disk PATH BYTES | run PORT DISK TMPFS-FILE")
            exit(64)
        }
    }
}
