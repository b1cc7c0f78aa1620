import CPageFerry
import Glibc
import PageCore
import PageFerry
import StreamTransport

// The functions of pageferry.h. SAFETY: for all of them, what a pointer leads to is the caller's, of the type the header says, and
// lives for the call; NULL and sizes are checked before it is followed, and nothing keeps it.

/// "0.2.0", terminated; static storage.
private let version: StaticString = "0.2.0"

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
        return Handles.add(try unsafe LibrarySource(Options.read(options, formerBytes: 40, empty: pageferry_source_options())))
    }
}

@c(pageferry_source_address) @implementation
public func pageferry_source_address(_ source: Int64, _ buffer: UnsafeMutablePointer<CChar>!, _ size: Int) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        let source = try Handles.source(source)
        return Int32(
            unsafe CText.copy(
                source.address, to: UnsafeMutableBufferPointer(start: buffer, count: buffer == nil ? 0 : max(0, size))))
    }
}

@c(pageferry_source_adopt) @implementation
public func pageferry_source_adopt(_ source: Int64, _ descriptors: UnsafePointer<Int32>!, _ count: UInt32) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        let source = try Handles.source(source)
        guard let sockets = try unsafe LibrarySockets(descriptors, count) else { throw .argument("no descriptors are given to be adopted") }
        try source.adopt(sockets)
        return 0
    }
}

@c(pageferry_destination_open) @implementation
public func pageferry_destination_open(_ options: UnsafePointer<pageferry_destination_options>!) -> Int64 {
    ErrorText.keeping { () throws(LibraryError) -> Int64 in
        guard let options = unsafe options else { throw .argument("options is NULL") }
        return Handles.add(
            try unsafe LibraryDestination.open(
                Options.read(options, formerBytes: 48, empty: pageferry_destination_options())))
    }
}

@c(pageferry_destination_recover) @implementation
public func pageferry_destination_recover(_ destination: Int64, _ connect: UnsafePointer<CChar>!) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        let destination = try Handles.destination(destination)
        guard let text = unsafe CText.read(connect) else { throw .argument("connect is NULL") }
        let address: StreamAddress
        do throws(StreamError) { address = try StreamAddress(parsing: text) } catch { throw LibraryError(error) }
        try destination.recover(at: address)
        return 0
    }
}

@c(pageferry_destination_adopt) @implementation
public func pageferry_destination_adopt(_ destination: Int64, _ descriptors: UnsafePointer<Int32>!, _ count: UInt32) -> Int32 {
    ErrorText.keeping { () throws(LibraryError) -> Int32 in
        let destination = try Handles.destination(destination)
        guard let sockets = try unsafe LibrarySockets(descriptors, count) else { throw .argument("no descriptors are given to be adopted") }
        try destination.adopt(sockets)
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
