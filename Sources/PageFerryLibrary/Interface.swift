import CPageFerry
import Glibc
import PageCore
import PageEngine
import PageFerry
import SecureStream
import StreamTransport

// The functions of pageferry.h. SAFETY: for all of them, what a pointer leads to is the caller's, of the type the header says, and
// lives for the call; NULL and sizes are checked before it is followed, and nothing keeps it.

private let seconds: UInt64 = 1_000_000_000

/// "0.1.0", terminated; static storage.
private let version: StaticString = "0.1.0"

@c(pageferry_version) @implementation
public func pageferry_version() -> UnsafePointer<CChar>! {
    unsafe UnsafeRawPointer(version.utf8Start).assumingMemoryBound(to: CChar.self)
}

@c(pageferry_error_text) @implementation
public func pageferry_error_text(_ buffer: UnsafeMutablePointer<CChar>!, _ size: Int) -> Int {
    let text = unsafe CText.read(pageferry_internal_error_buffer()) ?? ""
    return unsafe CText.copy(text, to: UnsafeMutableBufferPointer(start: buffer, count: buffer == nil ? 0 : max(0, size)))
}

@c(pageferry_source_open) @implementation
public func pageferry_source_open(_ options: UnsafePointer<pageferry_source_options>!) -> Int64 {
    ErrorText.keeping { () throws(LibraryError) -> Int64 in
        guard let options = unsafe options else { throw .argument("options is NULL") }
        try unsafe Options.requireSize(options.pointee.size, of: pageferry_source_options.self, MemoryLayout<pageferry_source_options>.size)
        let wanted = unsafe options.pointee
        let security = try unsafe LibrarySecurity(wanted.security)
        let listen = try unsafe security.address(wanted.listen, "listen")
        var configuration = SourceServer.Configuration()
        configuration.security = try security.lanes(.server)
        let mostSessions = unsafe wanted.most_sessions
        guard mostSessions <= 4096 else { throw .argument("most_sessions is \(mostSessions); at most 4096 are possible") }
        configuration.mostSessions = mostSessions == 0 ? 64 : Int(mostSessions)
        let patience = unsafe wanted.give_up_after_seconds
        return Handles.add(try LibrarySource(
            unsafe Options.regions(wanted), listen: listen, configuration: configuration,
            pauseNanoseconds: UInt64(patience == 0 ? 600 : patience) * seconds))
    }
}

@c(pageferry_source_address) @implementation
public func pageferry_source_address(_ source: Int64, _ buffer: UnsafeMutablePointer<CChar>!, _ size: Int) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        guard let source = try Handles.find(source) as? LibrarySource else {
            throw LibraryError(PAGEFERRY_ERROR_HANDLE, "\(source) is a destination, not a source")
        }
        return Int32(unsafe CText.copy(
            source.address, to: UnsafeMutableBufferPointer(start: buffer, count: buffer == nil ? 0 : max(0, size))))
    }
}

@c(pageferry_destination_open) @implementation
public func pageferry_destination_open(_ options: UnsafePointer<pageferry_destination_options>!) -> Int64 {
    ErrorText.keeping { () throws(LibraryError) -> Int64 in
        guard let options = unsafe options else { throw .argument("options is NULL") }
        try unsafe Options.requireSize(
            options.pointee.size, of: pageferry_destination_options.self, MemoryLayout<pageferry_destination_options>.size)
        let wanted = unsafe options.pointee
        let security = try unsafe LibrarySecurity(wanted.security)
        let address = try unsafe security.address(wanted.connect, "connect")
        let windowBytes = unsafe wanted.window_bytes == 0 ? 64 << 10 : wanted.window_bytes
        guard (4096...(2 << 20)).contains(windowBytes) else { throw .argument("window_bytes is \(windowBytes); 4096 to 2097152 are possible") }
        guard unsafe wanted.bulk_lanes <= 15 else { throw .argument("bulk_lanes is more than 15") }
        guard unsafe wanted.give_up_after_seconds >= -1 else { throw .argument("give_up_after_seconds is below -1") }
        var session = DestinationSession.Configuration()
        session.window = WindowPolicy(windowBytes: Int(windowBytes))
        if unsafe wanted.no_push != 0 { session.creditBytes = 0 }
        session.pauseNanoseconds = unsafe wanted.give_up_after_seconds < 0 ? .max : UInt64(wanted.give_up_after_seconds) * seconds
        let regions = try unsafe Options.regions(wanted)
        var configuration = DestinationConnector.Configuration()
        configuration.bulkLanes = Int(unsafe wanted.bulk_lanes)
        configuration.security = try security.lanes(.client)
        let opened: OpenedDestination
        do throws(SessionError) {
            opened = try DestinationConnector(to: address, configuration: configuration).accept(regions)
        } catch { throw LibraryError(error) }
        return Handles.add(LibraryDestination(opened, regions, configuration: session) { address throws(LibraryError) in
            try security.check(address)
        })
    }
}

@c(pageferry_destination_recover) @implementation
public func pageferry_destination_recover(_ destination: Int64, _ connect: UnsafePointer<CChar>!) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        guard let destination = try Handles.find(destination) as? LibraryDestination else {
            throw LibraryError(PAGEFERRY_ERROR_HANDLE, "\(destination) is a source, not a destination")
        }
        guard let text = unsafe CText.read(connect) else { throw .argument("connect is NULL") }
        let address: StreamAddress
        do throws(StreamError) { address = try StreamAddress(parsing: text) } catch { throw LibraryError(error) }
        try destination.recover(at: address)
        return 0
    }
}

@c(pageferry_event_descriptor) @implementation
public func pageferry_event_descriptor(_ handle: Int64) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in try Handles.find(handle).events.descriptor }
}

@c(pageferry_next_event) @implementation
public func pageferry_next_event(_ handle: Int64, _ timeout_milliseconds: Int32, _ event: UnsafeMutablePointer<pageferry_event>!) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        guard let event = unsafe event else { throw .argument("event is NULL") }
        try unsafe Options.requireSize(event.pointee.size, of: pageferry_event.self, MemoryLayout<pageferry_event>.size)
        let deadline = timeout_milliseconds < 0 ? nil : MonotonicClock.nowNanoseconds() + UInt64(timeout_milliseconds) * 1_000_000
        guard let next = try Handles.find(handle).events.next(deadlineNanoseconds: deadline) else { return 0 }
        unsafe event.pointee.kind = Int32(next.kind.rawValue)
        unsafe event.pointee.status = next.status
        unsafe event.pointee.session = next.session
        unsafe withUnsafeMutableBytes(of: &event.pointee.text) { bytes in
            _ = unsafe CText.copy(next.text, to: bytes.bindMemory(to: CChar.self))
        }
        return 1
    }
}

@c(pageferry_read_statistics) @implementation
public func pageferry_read_statistics(_ handle: Int64, _ statistics: UnsafeMutablePointer<pageferry_statistics>!) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        guard let statistics = unsafe statistics else { throw .argument("statistics is NULL") }
        let size = unsafe statistics.pointee.size
        try Options.requireSize(size, of: pageferry_statistics.self, MemoryLayout<pageferry_statistics>.size)
        var read = try Handles.find(handle).statistics
        read.size = size
        unsafe statistics.pointee = read
        return 0
    }
}

@c(pageferry_end) @implementation
public func pageferry_end(_ handle: Int64) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        try Handles.find(handle).end()
        return 0
    }
}

@c(pageferry_close) @implementation
public func pageferry_close(_ handle: Int64) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        try Handles.remove(handle).close()
        return 0
    }
}
