import Demonstration
import Glibc
import Synchronization

/// What a run leaves behind when it is told to stop in the middle: processes, files and sockets.
public enum Leftovers {
    private static let paths = Mutex<Set<String>>([])

    /// A file or socket that is made; removed by `remove`, or by `cleanUp`.
    static func expect(_ path: String) { paths.withLock { _ = $0.insert(path) } }

    static func remove(_ path: String) {
        // SAFETY: the path is terminated and lives for the call.
        unsafe unlink(path)
        paths.withLock { _ = $0.remove(path) }
    }

    /// Ends the processes and removes the files of this run. Nothing is started or made after it.
    public static func cleanUp() {
        ChildProcess.endAll()
        for path in paths.withLock({ $0 }) { unsafe unlink(path) }
    }
}
