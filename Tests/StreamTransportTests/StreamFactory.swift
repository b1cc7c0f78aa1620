import Glibc
import PageTransport
import TestSupport
import Testing

@testable import StreamTransport

typealias TransportUnderTest = StreamTransport

/// Makes connected pairs of the transport under test.
struct TransportFactory: Sendable, CustomTestStringConvertible {
    enum Link: String, Sendable { case tcp, unix }
    let link: Link
    var testDescription: String { link.rawValue }

    static let all = [TransportFactory(link: .tcp), TransportFactory(link: .unix)]

    func makePair(lanes: Int, sizes: TransportSizes) throws -> TransportPair<StreamTransport> {
        var left = StreamLanes()
        var right = StreamLanes()
        for _ in 0..<lanes {
            let (one, other) = try connectedDescriptors(link)
            left.append(adopting: one)
            right.append(adopting: other)
        }
        let configuration = sizes.streamConfiguration
        return TransportPair(
            left: try StreamTransport(lanes: left, configuration: configuration),
            right: try StreamTransport(lanes: right, configuration: configuration))
    }
}

extension TransportSizes {
    var streamConfiguration: StreamConfiguration {
        StreamConfiguration(
            queueFrames: queueFrames, urgentReadAheadBytes: readAheadBytes, bulkReadAheadBytes: readAheadBytes,
            zeroCopyThresholdBytes: zeroCopyThresholdBytes)
    }
}

/// A path nobody else uses; short enough for a socket.
func temporaryPath(_ name: String) -> String {
    "/tmp/pageferry-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max))-\(name)"
}

/// Two connected sockets, made through the library's own listener and connector.
func connectedDescriptors(_ link: TransportFactory.Link) throws -> (Int32, Int32) {
    let address: StreamAddress = link == .tcp ? .tcp(host: "127.0.0.1", port: 0) : .unix(path: temporaryPath("pair"))
    var listener = try StreamListener(on: address)
    let one = try StreamConnection.connect(to: listener.address, timeoutNanoseconds: seconds(10))
    let other = try accepted(&listener)
    return (one.release(), other.release())
}

/// The next connection, which is there already.
func accepted(_ listener: inout StreamListener, wake: Int32? = nil) throws -> StreamConnection {
    guard let connection = try listener.accept(timeoutNanoseconds: seconds(10), wake: wake) else {
        throw StreamError.timedOut(peer: "the test")
    }
    return connection
}

/// Every test of this module, one after the other: some count the process's descriptors.
@Suite(.leavesNothing, .serialized) struct TransportTests {}
