import Glibc
import PageCore
import PageWire
import StreamTransport
import Synchronization
import Testing

@testable import PageFerry

/// A source that does the handshake as it must, and then says whatever a test wants.
final class RawSource: Sendable {
    let path: String
    private let listener: Int32
    private let thread: DedicatedThread

    /// - Parameter script: gets the lanes, the urgent one first; when it returns they are read to their ends.
    init(name: String, layout: RegionLayout, laneCount: Int, script: @escaping @Sendable ([RawConnection]) -> Void) throws {
        let path = socketPath(name)
        unlink(path)
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = unixAddress(path)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        try #require(bound == 0 && listen(listener, 8) == 0)
        self.path = path
        self.listener = listener
        let identity = SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)
        thread = DedicatedThread(name: "raw-source") {
            var lanes: [RawConnection] = []
            while lanes.count < laneCount {
                let descriptor = accept(listener, nil, nil)
                guard descriptor >= 0 else { return }
                let lane = RawConnection(descriptor)
                guard lane.readFrame()?.header.kind == .hello else { return }
                if lanes.isEmpty {
                    let hello = Hello(role: .source, lane: 0, laneCount: UInt8(laneCount), features: [], session: identity)
                    lane.write(FrameHeader(.hello), hello.encoded())
                    lane.write(FrameHeader(.regionTable), RegionTable.encode(layout))
                    guard lane.readFrame()?.header.kind == .accept else { return }
                } else {
                    lane.write(FrameHeader(.accept))
                }
                lanes.append(lane)
            }
            script(lanes)
            for lane in lanes { lane.readToEnd() }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        thread.join()
        close(listener)
        unlink(path)
    }
}

/// A destination that does the handshake as it must, and then says whatever a test wants.
struct RawDestination {
    let lanes: [RawConnection]
    let layout: RegionLayout
    let session: SessionIdentity

    init(path: String, laneCount: Int = 1) throws {
        let urgent = try RawConnection(path: path)
        let hello = Hello(role: .destination, lane: 0, laneCount: UInt8(laneCount), features: [], session: .unassigned)
        urgent.write(FrameHeader(.hello), hello.encoded())
        let first = try #require(urgent.readFrame(), "the source answers")
        try #require(first.header.kind == .hello, "the source refused: \(String(decoding: first.payload, as: UTF8.self))")
        let answer = try Hello(decoding: first.payload)
        session = answer.session
        layout = try RegionTable.decode(try #require(urgent.readFrame()).payload)
        urgent.write(FrameHeader(.accept))
        var lanes = [urgent]
        for number in 1..<max(1, Int(answer.laneCount)) {
            let lane = try RawConnection(path: path)
            var joining = hello
            joining.lane = UInt8(number)
            joining.laneCount = answer.laneCount
            joining.session = answer.session
            lane.write(FrameHeader(.hello), joining.encoded())
            try #require(lane.readFrame()?.header.kind == .accept)
            lanes.append(lane)
        }
        self.lanes = lanes
    }
}

/// Takes connections, says the same to each, and nothing more; they stay open as long as this lives.
final class SilentListener: Sendable {
    let path: String
    private let listener: Int32
    private let thread: DedicatedThread

    init(name: String, saying bytes: [UInt8]) throws {
        let path = socketPath(name)
        unlink(path)
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = unixAddress(path)
        let bound = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
        }
        try #require(bound == 0 && listen(listener, 8) == 0)
        self.path = path
        self.listener = listener
        thread = DedicatedThread(name: "silent-source") {
            var held: [RawConnection] = []
            while true {
                let descriptor = accept(listener, nil, nil)
                guard descriptor >= 0 else { return }
                let connection = RawConnection(descriptor)
                connection.write(bytes)
                held.append(connection)
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        thread.join()
        close(listener)
        unlink(path)
    }
}
