import CShims
import Glibc
import HostMemory
import PageCore
import Synchronization
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

let seconds: UInt64 = 1_000_000_000

let userfaultIsPermitted: Bool = {
    do {
        _ = try UserfaultDescriptor.supportedFeatures()
        return true
    } catch {
        print("skipped: \(error)")
        return false
    }
}()

/// A socket path of this process and of `name`.
func socketPath(_ name: String, of process: Int32 = getpid()) -> String { "/tmp/pageferry-test-\(process)-\(name).sock" }

/// Polls `condition` for twenty seconds at most.
func poll(until condition: () -> Bool) -> Bool {
    for _ in 0..<20_000 {
        if condition() { return true }
        _ = poll(nil, 0, 1)
    }
    return condition()
}

/// Work on a thread of its own.
final class Runner<Value: Sendable>: Sendable {
    private let result = Mutex<Value?>(nil)

    init(_ body: @escaping @Sendable () -> Value) {
        let work = ThreadBody { [self] in
            let value = body()
            result.withLock { $0 = value }
        }
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { box in
                Unmanaged<ThreadBody>.fromOpaque(box!).takeRetainedValue().run()
                return nil
            }, Unmanaged.passRetained(work).toOpaque())
        precondition(code == 0, "a thread starts")
        pthread_detach(thread)
    }

    /// Waits for its result, at most twenty seconds.
    func join() -> Value? {
        _ = poll(until: { result.withLock { $0 != nil } })
        return result.withLock { $0 }
    }
}

private final class ThreadBody: Sendable {
    let run: @Sendable () -> Void
    init(_ run: @escaping @Sendable () -> Void) { self.run = run }
}

/// Runs a daemon that takes one hand-off at `path`: gives its error, or nil when the regions were accepted.
func refusal(at path: String, during client: (borrowing RawClient) throws -> Void) throws -> HandoffError? {
    let listener = try HandoffListener(path: path)
    let raw = try RawClient(path: path)
    let connection = try listener.accept(timeoutNanoseconds: 5 * seconds)
    try client(raw)
    shutdown(raw.socket.rawValue, Int32(SHUT_WR))
    do throws(HandoffError) {
        _ = try connection.receiveRegions(timeoutNanoseconds: 5 * seconds)
        return nil
    } catch {
        return error
    }
}

/// A listener for a thread of its own.
final class HandoffBox: Sendable {
    let listener: HandoffListener
    init(_ listener: consuming HandoffListener) { self.listener = listener }
}

/// A client that says what it should not.
struct RawClient: ~Copyable {
    let socket: HandoffSocket

    init(path: String) throws {
        let socket = try HandoffSocket.make()
        try #require(pageferry_unix_connect(socket.rawValue, path) == 0)
        self.socket = socket
    }

    func hello(version: UInt32 = HandoffProtocol.version) throws {
        var payload: [UInt8] = []
        payload.appendLittleEndian(version)
        payload.appendLittleEndian(UInt32(0))
        try socket.send(.hello, payload, deadline: HandoffDeadline(timeoutNanoseconds: seconds))
    }

    func region(_ message: HandoffRegionMessage, _ descriptors: [Int32]) throws {
        try socket.send(
            .region, message.encoded, descriptors: descriptors, deadline: HandoffDeadline(timeoutNanoseconds: seconds))
    }

    func ready(_ count: UInt32) throws {
        var payload: [UInt8] = []
        payload.appendLittleEndian(count)
        payload.appendLittleEndian(UInt32(0))
        try socket.send(.ready, payload, deadline: HandoffDeadline(timeoutNanoseconds: seconds))
    }

    func raw(_ bytes: [UInt8]) {
        _ = pageferry_handoff_send(socket.rawValue, bytes, bytes.count, [], 0)
    }

    /// The last answer that is there.
    func lastAnswer() throws -> HandoffAnswer? {
        var last: HandoffAnswer?
        while let message = try? socket.receive(deadline: HandoffDeadline(timeoutNanoseconds: seconds / 10), step: "") {
            last = try HandoffAnswer(message.payload)
        }
        return last
    }
}
