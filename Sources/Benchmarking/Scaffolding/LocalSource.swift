import Demonstration
import Glibc
import HostMemory
import PageCore
import PageFerry
import StreamTransport
import Synchronization

/// A source in this process, for what the command does not do: several regions, and counting in one process.
final class LocalSource: Sendable {
    let address: StreamAddress
    private let server: SourceServer
    private let acceptor: DedicatedThread
    private let sessions: Sessions

    private final class Sessions: Sendable {
        private let running = Mutex<[SourceSession]>([])
        func add(_ session: SourceSession) { running.withLock { $0.append(session) } }
        func takeAll() -> [SourceSession] {
            running.withLock { running in
                defer { running = [] }
                return running
            }
        }
    }

    /// - Parameter regionCount: the image is offered in so many regions of one size.
    init(_ image: BenchmarkImage, regionCount: Int, mode: WaitMode, kind: SocketKind = .tcp) throws(BenchmarkError) {
        let regionBytes = image.lengthBytes / regionCount
        do {
            var descriptors: [SourceRegionDescriptor] = []
            for number in 0..<regionCount {
                // SAFETY: the path is terminated and lives for the call.
                let descriptor = unsafe open(image.file.path, O_RDONLY | O_CLOEXEC)
                descriptors.append(
                    SourceRegionDescriptor(
                        name: "region\(number)", descriptor: descriptor, fileOffset: number * regionBytes, lengthBytes: regionBytes))
            }
            let memory = try SourceImage(descriptors)
            try memory.findHoles()
            let listener = try StreamListener(
                on: kind == .tcp ? .tcp(host: "127.0.0.1", port: 0) : .unix(path: "\(image.file.path).local"))
            address = listener.address
            let server = SourceServer(listener: listener, layout: memory.layout, configuration: .init())
            let sessions = Sessions()
            var configuration = SourceSession.Configuration()
            configuration.polling = mode.polling
            self.server = server
            self.sessions = sessions
            acceptor = DedicatedThread(name: "bench-source") { [configuration] in
                while let opened = try? server.nextSession(refused: { _, _ in }) {
                    let session = SourceSession(opened, memory: memory, machineState: nil, configuration: configuration) { notice in
                        if case .ended = notice { server.sessionEnded() }
                    }
                    sessions.add(session)
                    session.guestStopped()
                }
            }
        } catch {
            throw BenchmarkError("\(error)")
        }
    }

    func stop() {
        server.stop()
        acceptor.join()
        let running = sessions.takeAll()
        for session in running { session.end(.cancelled) }
        for session in running { session.join() }
    }
}
