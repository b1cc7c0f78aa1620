import CPageFerry
import Glibc
import NativeHandoff
import PageFerry
import StreamTransport

/// An error as the library's callers get it: a number, and one line.
struct LibraryError: Error {
    var status: Int32
    var text: String

    init(_ status: pageferry_error, _ text: String) {
        self.status = status.rawValue
        self.text = text
    }

    static func argument(_ text: String) -> LibraryError { LibraryError(PAGEFERRY_ERROR_ARGUMENT, text) }

    init(_ error: SessionError) {
        let status =
            switch error {
            case .cannotConnect, .unknownHost: PAGEFERRY_ERROR_CONNECT
            case .notPageFerry, .versionMismatch, .wrongRole, .violation, .damagedFrame, .unexpectedFrame, .machineStateTooLarge:
                PAGEFERRY_ERROR_PROTOCOL
            case .regionMismatch: PAGEFERRY_ERROR_MISMATCH
            case .memory, .memoryLost, .cannotOpenMemory, .unevenMemory: PAGEFERRY_ERROR_MEMORY
            case .notTrusted, .badCredentials: PAGEFERRY_ERROR_TRUST
            case .linkLost, .timedOut, .unknownSession: PAGEFERRY_ERROR_LINK
            case .peerFailed: PAGEFERRY_ERROR_PEER
            case .processEnded: PAGEFERRY_ERROR_PROCESS
            case .cancelled: PAGEFERRY_ERROR_CANCELLED
            case .cannotKeepSession: PAGEFERRY_ERROR_SYSTEM
            }
        self.init(status, error.description)
    }

    init(_ error: StreamError) {
        let status =
            switch error {
            case .badAddress, .pathTooLong: PAGEFERRY_ERROR_ARGUMENT
            case .ring: PAGEFERRY_ERROR_SYSTEM
            default: PAGEFERRY_ERROR_CONNECT
            }
        self.init(status, error.description)
    }

    init(_ error: HandoffError) {
        let status =
            switch error {
            case .badRegion, .overlap, .tooManyRegions: PAGEFERRY_ERROR_ARGUMENT
            case .systemCall: PAGEFERRY_ERROR_SYSTEM
            default: PAGEFERRY_ERROR_MEMORY
            }
        self.init(status, error.description)
    }
}

/// Where each thread finds why its last call failed.
enum ErrorText {
    static func set(_ text: String) {
        // SAFETY: the buffer is this thread's own, as long as the thread lives, and this long; it is terminated below.
        let buffer = unsafe UnsafeMutableBufferPointer(
            start: pageferry_internal_error_buffer(), count: PAGEFERRY_ERROR_BUFFER_BYTES)
        unsafe CText.copy(text, to: buffer)
    }

    /// Runs a call of the library: what it throws is kept for the thread, and its number returned.
    static func keeping(_ body: () throws(LibraryError) -> Int64) -> Int64 {
        do throws(LibraryError) {
            return try body()
        } catch {
            set(error.text)
            return Int64(error.status)
        }
    }

    static func keeping(_ body: () throws(LibraryError) -> Int32) -> Int32 {
        do throws(LibraryError) {
            return try body()
        } catch {
            set(error.text)
            return error.status
        }
    }
}

/// Texts across the border to C.
enum CText {
    /// Copies a text with its terminator, cut where it must be, never inside a character.
    /// - Returns: the bytes it needs, the terminator included.
    @discardableResult
    static func copy(_ text: String, to buffer: UnsafeMutableBufferPointer<CChar>) -> Int {
        var room = buffer.count - 1
        guard room >= 0 else { return text.utf8.count + 1 }
        var used = 0
        for character in text.unicodeScalars {
            let bytes = Array(String(character).utf8)
            room -= bytes.count
            guard room >= 0 else { break }
            // SAFETY: `used` and what is added stay below the buffer's count, which `room` counts down from.
            for byte in bytes {
                unsafe buffer[used] = CChar(bitPattern: byte)
                used += 1
            }
        }
        unsafe buffer[used] = 0
        return text.utf8.count + 1
    }

    /// A caller's text; nil for NULL.
    static func read(_ text: UnsafePointer<CChar>?) -> String? {
        // SAFETY: callers pass terminated texts, as the header says; it is copied at once.
        guard let text = unsafe text else { return nil }
        return unsafe String(cString: text)
    }
}
