import Glibc
import PageCore
import StreamTransport

extension StreamListener {
    /// How long the kernel may keep a dead daemon's socket: it ends io_uring's operations after the process itself.
    private static let lingeringNanoseconds: UInt64 = 3_000_000_000

    /// Listens where a daemon before this one, just killed, has listened.
    init(onLingering address: StreamAddress) throws(StreamError) {
        let deadline = MonotonicClock.nowNanoseconds() + Self.lingeringNanoseconds
        while true {
            do throws(StreamError) {
                self = try StreamListener(on: address)
                return
            } catch {
                guard case .addressInUse = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = poll(nil, 0, 20)
            }
        }
    }
}
