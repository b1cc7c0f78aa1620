import Glibc
import PageCore

/// Why memory was not handed over. The text goes to the peer too.
public enum HandoffError: Error, Sendable, Hashable {
    /// Somebody listens at this path already.
    case alreadyListening(path: String)
    /// Something that is no socket is at this path.
    case notASocket(path: String)
    /// Nobody listens at this path.
    case nobodyListens(path: String)
    /// The peer did not do its part in time; `step` says which.
    case timedOut(step: String)
    /// The peer ended the connection in the middle.
    case connectionEnded(step: String)
    /// The peer speaks something else, or another version.
    case notThisProtocol(detail: String)
    /// The peer speaks a version that this side does not; it may come again with an older one.
    case otherVersion(spoken: UInt32, newest: UInt32)
    /// A message is malformed.
    case malformed(detail: String)
    /// A message came with another number of descriptors than it needs.
    case wrongDescriptors(name: String, expected: Int, received: Int)
    /// The same pages twice.
    case overlap(name: String, other: String)
    /// Address, length or offset of a region cannot be.
    case badRegion(name: String, detail: String)
    /// More regions than a session may have.
    case tooManyRegions
    /// `ready` came before any region, or with another count.
    case wrongCount(announced: Int, received: Int)
    /// The userfaultfd is none, or cannot be used.
    case badUserfault(name: String, detail: String)
    /// The memory file is none, is too short, or cannot be written.
    case badFile(name: String, detail: String)
    /// Memory that another daemon has served where fresh memory is awaited, or the reverse.
    case wrongOccasion(isAgain: Bool)
    /// A region that is to be taken out and is not there.
    case noRegion(number: UInt32)
    /// Memory that was plugged in after the switch.
    case nothingAtSource
    /// The other side refused.
    case refused(status: UInt32, text: String)
    /// A system call failed.
    case systemCall(call: String, code: Int32)

    /// The status that is sent to the peer; never 0, which is success. Part of the protocol.
    public var status: UInt32 {
        switch self {
        case .notThisProtocol, .otherVersion: 1
        case .malformed: 2
        case .wrongDescriptors: 3
        case .overlap: 4
        case .badRegion: 5
        case .tooManyRegions: 6
        case .wrongCount: 7
        case .badUserfault: 8
        case .badFile: 9
        case .timedOut: 10
        case .refused, .wrongOccasion: 11
        case .noRegion: 13
        case .nothingAtSource: 14
        case .alreadyListening, .notASocket, .nobodyListens, .connectionEnded, .systemCall: 12
        }
    }
}

extension HandoffError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .alreadyListening(let path):
            "another process already listens on '\(path)': end it, or choose another hand-off socket"
        case .notASocket(let path):
            "'\(path)' exists and is no socket: remove it, or choose another path for the hand-off socket"
        case .nobodyListens(let path):
            "nobody listens on the hand-off socket '\(path)': start the page daemon before the VMM"
        case .timedOut(let step):
            "the hand-off timed out \(step)"
        case .connectionEnded(let step):
            "the peer ended the hand-off connection \(step)"
        case .notThisProtocol(let detail):
            "the peer does not speak this hand-off protocol: \(detail)"
        case .otherVersion(let spoken, let newest):
            "the peer speaks version \(spoken) of this hand-off protocol, this daemon \(HandoffProtocol.oldestVersion) to \(newest)"
        case .malformed(let detail):
            "malformed hand-off message: \(detail)"
        case .wrongDescriptors(let name, let expected, let received):
            "region '\(name)' came with \(received) descriptors in place of \(expected): "
                + "a userfaultfd, and for shared memory its file"
        case .overlap(let name, let other):
            "regions '\(name)' and '\(other)' overlap: hand over each page once"
        case .badRegion(let name, let detail):
            "region '\(name)' cannot be: \(detail)"
        case .tooManyRegions:
            "more than \(RegionLayout.mostRegions) regions were handed over"
        case .wrongCount(let announced, let received):
            "the peer announced \(announced) regions and handed over \(received)"
        case .badUserfault(let name, let detail):
            "region '\(name)': \(detail)"
        case .badFile(let name, let detail):
            "the memory file of region '\(name)' cannot be used: \(detail)"
        case .wrongOccasion(let isAgain):
            isAgain
                ? "the daemon takes over nothing here, it waits for fresh memory: give each daemon a hand-off socket of its own"
                : "the daemon takes over from one that died, and waits for that one's memory: give each daemon a hand-off socket of its own"
        case .noRegion(let number):
            "there is no region \(number)"
        case .nothingAtSource:
            "the source has nothing of memory that was plugged in later: it reads as zeros, so do not register it"
        case .refused(let status, let text):
            "the page daemon refused the memory (status \(status)): \(text)"
        case .systemCall(let call, let code):
            // SAFETY: glibc's strerror returns a terminated string, kept for this thread until its next call.
            "\(call) failed: \(unsafe String(cString: strerror(code)))"
        }
    }
}
