import Glibc

/// The program that runs inside the demonstration's guest, as its only load.
///
/// `GuestWorkload make-disk PATH BYTES` writes the known disk's content; `GuestWorkload run PORT DISK TMPFS-FILE MIB
/// THREADS CHURN-MIB` works on so much memory with so many threads, and takes and gives back CHURN-MIB more again and again (0: none),
/// until the line "STOP" comes from the port, then prints its verdict:
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
        case "run" where arguments.count == 8:
            guard let mebibytes = Int(arguments[5]), (1...65536).contains(mebibytes), let workers = Int(arguments[6]),
                (1...64).contains(workers),
                let churned = Int(arguments[7]), (0...65536).contains(churned)
            else { exit(64) }
            Workload(
                port: arguments[2], diskPath: arguments[3], sumPath: arguments[4], memoryBytes: mebibytes << 20, workers: workers,
                churnedBytes: churned << 20
            ).run()
        default:
            print("usage: GuestWorkload make-disk PATH BYTES | run PORT DISK TMPFS-FILE MIB THREADS CHURN-MIB")
            exit(64)
        }
    }
}
