import PageCore
import PageWire

/// One connection before its data path starts: whole frames, one after the other, each with a time-out.
protocol SetupChannel: ~Copyable {
    /// The other end, for messages.
    var peerDescription: String { get }
    mutating func send(_ header: FrameHeader, payload: [UInt8], timeoutNanoseconds: UInt64) throws(SessionError)
    mutating func receive(timeoutNanoseconds: UInt64) throws(SessionError) -> (header: FrameHeader, payload: [UInt8])
}

extension SetupChannel where Self: ~Copyable {
    mutating func send(_ kind: FrameKind, _ payload: [UInt8] = [], timeoutNanoseconds: UInt64) throws(SessionError) {
        try send(FrameHeader(kind, payloadBytes: payload.count), payload: payload, timeoutNanoseconds: timeoutNanoseconds)
    }

    /// Receives one frame of the given kind; a `failure` frame becomes the peer's error.
    mutating func receive(_ kind: FrameKind, timeoutNanoseconds: UInt64) throws(SessionError) -> [UInt8] {
        let (header, payload) = try receive(timeoutNanoseconds: timeoutNanoseconds)
        if header.kind == .failure {
            throw .peerFailed(Failure(header: header, payload: payload))
        }
        guard header.kind == kind else { throw .unexpectedFrame(header.kind) }
        return payload
    }

    /// Receives the `residentPages` frames that tell of all pages.
    ///
    /// - Parameter timeoutNanoseconds: for each frame.
    mutating func receiveResidentPages(_ layout: RegionLayout, timeoutNanoseconds: UInt64) throws(SessionError) -> ResidentMap {
        var pages = PageBitmap(pageCount: layout.totalPages)
        var next = 0
        while next < pages.pageCount {
            let payload = try receive(.residentPages, timeoutNanoseconds: timeoutNanoseconds)
            do throws(FrameError) {
                next = try ResidentPages.decode(payload, into: &pages, next: next)
            } catch {
                throw .damagedFrame(error)
            }
        }
        return ResidentMap(pages)
    }

    /// Tells the peer why the session ends; it may be gone already, which changes nothing.
    mutating func refuse(_ error: SessionError) {
        let (header, payload) = error.failure.encoded()
        try? send(header, payload: payload, timeoutNanoseconds: 1_000_000_000)
    }

    /// Receives the peer's hello and checks who speaks.
    mutating func receiveHello(from role: SessionRole, timeoutNanoseconds: UInt64) throws(SessionError) -> Hello {
        let payload: [UInt8]
        do throws(SessionError) {
            payload = try receive(.hello, timeoutNanoseconds: timeoutNanoseconds)
        } catch .damagedFrame, .unexpectedFrame {
            throw .notPageFerry(peer: peerDescription)
        }
        let hello: Hello
        do {
            hello = try Hello(decoding: payload)
        } catch {
            throw .notPageFerry(peer: peerDescription)
        }
        guard hello.commonVersion(with: Hello.supportedVersions) != nil else {
            throw .versionMismatch(ours: Hello.supportedVersions, theirs: hello.versions)
        }
        guard hello.role == role else { throw .wrongRole(peer: peerDescription) }
        return hello
    }
}
