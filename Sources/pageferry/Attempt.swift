import Handoff
import HostMemory
import PageFerry
import StreamTransport
import Userfault

// One overload a module's error: what a library throws becomes the operator's line and exit code.

func attempt<Result: ~Copyable>(_ body: () throws(SessionError) -> Result) throws(CommandFailure) -> Result {
    do throws(SessionError) { return try body() } catch { throw CommandFailure(error) }
}

func attempt<Result: ~Copyable>(_ body: () throws(StreamError) -> Result) throws(CommandFailure) -> Result {
    do throws(StreamError) { return try body() } catch { throw CommandFailure(error) }
}

extension CommandFailure {
    init(_ error: StreamError) {
        let status: ExitStatus =
            switch error {
            case .badAddress, .pathTooLong, .notASocket: .usage
            case .cannotResolve: .noHost
            case .addressInUse, .cannotListen: .cannotCreate
            case .ring: .operatingSystem
            default: .unavailable
            }
        self.init(error.description, status)
    }
}
