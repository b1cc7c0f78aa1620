import Foundation
import Glibc
import TestSupport
import Testing

@testable import ServiceManager

/// What a service manager reads, and what it passes on: against a socket of the test's own. systemd itself is met in
/// CommandTests/ServiceTests.
@Suite(.leavesNothing, .serialized) struct ServiceManagerTests {
    /// A manager's end of the socket.
    final class Manager: Sendable {
        let socket: Int32
        let path: String

        init(abstract: Bool = false) throws {
            let name = "/tmp/pf-service-\(getpid())-\(UInt32.random(in: 0 ... .max))"
            path = abstract ? "@" + name : name
            socket = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { bytes in
                bytes.copyBytes(from: path.utf8)
                if abstract { bytes[0] = 0 }
            }
            let length = socklen_t(MemoryLayout<sa_family_t>.size + path.utf8.count)
            let status = withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(socket, $0, length) }
            }
            try #require(status == 0)
        }

        deinit {
            close(socket)
            if path.hasPrefix("/") { unlink(path) }
        }

        /// The next message, and the descriptors that came with it, closed with the message when nobody takes them.
        func receive() throws -> (lines: [String], descriptor: Int32?) {
            var bytes = [UInt8](repeating: 0, count: 4096)
            var control = [UInt8](repeating: 0, count: 64)
            var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            try #require(Glibc.poll(&entry, 1, 10_000) == 1, "a message comes")
            let (count, controlBytes) = bytes.withUnsafeMutableBytes { buffer in
                control.withUnsafeMutableBytes { control in
                    var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
                    return withUnsafeMutablePointer(to: &vector) { vector in
                        var message = msghdr()
                        message.msg_iov = vector
                        message.msg_iovlen = 1
                        message.msg_control = control.baseAddress
                        message.msg_controllen = control.count
                        let count = recvmsg(socket, &message, 0)
                        return (count, message.msg_controllen)
                    }
                }
            }
            try #require(count > 0)
            let text = String(decoding: bytes[..<count], as: UTF8.self)
            // cmsghdr is 16 bytes; one descriptor follows.
            let descriptor = controlBytes >= 20 ? control.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: 16, as: Int32.self) } : nil
            return (text.split(separator: "\n").map(String.init), descriptor)
        }
    }

    @Test(arguments: [false, true]) func messagesArriveAsTheyAreDefined(abstract: Bool) throws {
        let manager = try Manager(abstract: abstract)
        let service = try #require(ServiceManager(path: manager.path))
        service.ready()
        #expect(try manager.receive().lines == ["READY=1"])
        service.status("two\nlines")
        #expect(try manager.receive().lines == ["STATUS=two lines"])
        service.stopping()
        #expect(try manager.receive().lines == ["STOPPING=1"])
        service.forget(name: "userfault-0")
        #expect(try manager.receive().lines == ["FDSTOREREMOVE=1", "FDNAME=userfault-0"])
    }

    @Test func aStoredDescriptorIsTheSameOpenFile() throws {
        let manager = try Manager()
        let service = try #require(ServiceManager(path: manager.path))
        var ends: [Int32] = [-1, -1]
        try #require(pipe(&ends) == 0)
        service.store(ends[0], name: "connection")
        let message = try manager.receive()
        #expect(message.lines == ["FDSTORE=1", "FDPOLL=0", "FDNAME=connection"])
        let stored = try #require(message.descriptor)
        close(ends[0])
        #expect(write(ends[1], "x", 1) == 1)
        var byte: UInt8 = 0
        #expect(read(stored, &byte, 1) == 1 && byte == UInt8(ascii: "x"))
        close(stored)
        close(ends[1])
    }

    /// The barrier falls when the manager closes what it was sent, not before.
    @Test func synchronizingWaitsForTheManager() throws {
        let manager = try Manager()
        let service = try #require(ServiceManager(path: manager.path))
        #expect(!service.synchronize(timeoutMilliseconds: 50))
        let unanswered = try manager.receive()
        #expect(unanswered.lines == ["BARRIER=1"])
        close(try #require(unanswered.descriptor))
        let waiter = Thread { _ = try? manager.receive().descriptor.map { close($0) } }
        waiter.start()
        #expect(service.synchronize(timeoutMilliseconds: 10_000))
    }

    @Test func whoDoesNotListenIsNone() {
        #expect(ServiceManager(path: "/nonexistent/notify") == nil)
        #expect(ServiceManager(path: "vsock:2:1234") == nil)
        #expect(ServiceManager(path: "") == nil)
        #expect(ServiceManager(path: "/" + String(repeating: "x", count: 200)) == nil)
    }

    @Test func theEnvironmentIsReadOnceAndForThisProcessOnly() throws {
        let manager = try Manager()
        setenv("NOTIFY_SOCKET", manager.path, 1)
        #expect(ServiceManager.fromEnvironment() != nil)
        #expect(getenv("NOTIFY_SOCKET") == nil)
        #expect(ServiceManager.fromEnvironment() == nil)
        setenv("LISTEN_PID", "\(getpid() + 1)", 1)
        setenv("LISTEN_FDS", "1", 1)
        setenv("LISTEN_FDNAMES", "other", 1)
        let others = StoredDescriptors.fromEnvironment()
        let isEmpty = others.isEmpty
        #expect(isEmpty)
        #expect(getenv("LISTEN_PID") == nil && getenv("LISTEN_FDS") == nil && getenv("LISTEN_FDNAMES") == nil)
    }

    @Test func passedDescriptorsAreTakenByName() throws {
        let low = open("/dev/null", O_RDONLY | O_CLOEXEC)
        let high = fcntl(low, F_DUPFD, 700)
        close(low)
        let second = fcntl(high, F_DUPFD, 701)
        try #require(high == 700 && second == 701)
        do {
            var stored = StoredDescriptors(count: "3", names: "first:second", first: 700)
            let names = stored.names
            #expect(names == ["first", "second"], "what is not open is not there")
            #expect(fcntl(700, F_GETFD) == FD_CLOEXEC)
            let (absent, second, again, isEmpty) = (stored.take("absent"), stored.take("second"), stored.take("second"), stored.isEmpty)
            #expect(absent == nil && second == 701 && again == nil && !isEmpty)
        }
        #expect(fcntl(700, F_GETFD) == -1, "what nobody took is closed")
        #expect(fcntl(701, F_GETFD) == FD_CLOEXEC)
        close(701)
        for count in ["", "0", "-1", "4097", "x"] {
            let isEmpty = StoredDescriptors(count: count, names: "", first: 700).isEmpty
            #expect(isEmpty)
        }
    }
}
