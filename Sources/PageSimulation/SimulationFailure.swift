import PageCore
import PageEngine
import PageWire

/// What a simulated session came to.
public struct SimulationOutcome: Sendable, Hashable {
    public var seed: UInt64
    /// Virtual time from the first access to the last event.
    public var nanoseconds = 0
    public var events = 0
    public var pages = 0
    public var bytes = 0
    public var lanes = 0
    public var faults = 0
    /// The longest any simulated thread waited for a page, and how long it may have, in virtual nanoseconds.
    public var longestFaultNanoseconds = 0
    public var faultBoundNanoseconds = 0
    public var source = PageCounts()
    public var destination = PageCounts()
    /// How often the link was lost, and found again.
    public var lostLinks = 0
    /// How often the destination's daemon died, and another took over.
    public var deadDestinations = 0
    /// How often the network fell silent, in one direction or both.
    public var silences = 0
    /// How often a source took a link while it believed in another.
    public var secondLinks = 0
    /// How often an attempt to come back came to nothing.
    public var lostAttempts = 0
    /// Whether the scenario broke a lane; then the session did not complete, and what remained was checked.
    public var isLaneLost = false
}

/// An invariant that did not hold. Pages are session page numbers.
public enum InvariantViolation: Sendable, Hashable {
    case visibleBeforeWhole(page: Int, bytes: Int)
    case wrongContent(page: Int, shown: UInt64, expected: UInt64)
    case installedTwice(page: Int)
    case installedThoughGivenUp(page: Int)
    case writtenWhileVisible(page: Int)
    case halfPageLeft(page: Int, bytes: Int)
    case visibleBeforeItCame(page: Int)
    case crossedTwice(page: Int)
    case demandOvertaken(page: Int)
    case demandNotAsked(page: Int)
    case creditExceeded(bytes: Int)
    case unansweredPushExceeded(bytes: Int)
    case parkedWithoutBound
    case slabNeverFree(lane: Int)
    case laneRefused(lane: Int)
    case frameAfterEnd(lane: Int)
    case endAnnouncedEarly(unsentPages: Int)
    case endNotAnnounced(lane: Int)
    case residentTooEarly(unsentPages: Int)
    case residentTwice
    case faultUnanswered(page: Int, waitedNanoseconds: Int)
    case waitersLeft(pages: Int)
    case nothingHappens(missingPages: Int)
    case lastsTooLong(missingPages: Int)
    case staleLinkTaken(number: Int)
    case countsDisagree(String)
    case engine(EngineViolation)
    case frame(FrameError)
    case unexpectedFrame(FrameKind)
}

extension InvariantViolation: CustomStringConvertible {
    public var description: String {
        switch self {
        case .visibleBeforeWhole(let page, let bytes): "page \(page) became visible with \(bytes) of its bytes"
        case .wrongContent(let page, let shown, let expected):
            "page \(page) shows \(String(shown, radix: 16)) where the guest must find \(String(expected, radix: 16))"
        case .installedTwice(let page): "page \(page) was installed twice"
        case .installedThoughGivenUp(let page): "page \(page) was installed after the guest had given it up"
        case .writtenWhileVisible(let page): "page \(page) was received into while the guest saw it"
        case .halfPageLeft(let page, let bytes): "page \(page) was left behind with \(bytes) of its bytes"
        case .visibleBeforeItCame(let page): "page \(page) is visible and has never come"
        case .crossedTwice(let page): "page \(page) crossed the wire twice"
        case .demandOvertaken(let page): "the demand of page \(page) was overtaken though the urgent lane had room"
        case .demandNotAsked(let page): "a thread waits for page \(page), and it is not asked for though there is room"
        case .creditExceeded(let bytes): "the push exceeded its credit by \(bytes) bytes"
        case .unansweredPushExceeded(let bytes): "\(bytes) bytes more than the window were pushed and not yet received"
        case .parkedWithoutBound: "more work was parked than memory has pages"
        case .slabNeverFree(let lane): "the slab of lane \(lane) never became free"
        case .laneRefused(let lane): "lane \(lane) refused a frame though room was checked"
        case .frameAfterEnd(let lane): "lane \(lane) carried pages after its end"
        case .endAnnouncedEarly(let unsentPages): "the end was announced with \(unsentPages) pages unsent"
        case .endNotAnnounced(let lane): "the end was not announced once on lane \(lane)"
        case .residentTooEarly(let unsentPages): "all pages were reported in with \(unsentPages) not accounted for"
        case .residentTwice: "all pages were reported in twice"
        case .faultUnanswered(let page, let waited): "a thread waited \(waited) ns for page \(page), longer than anything explains"
        case .waitersLeft(let pages): "threads were still waiting for \(pages) pages at the end"
        case .nothingHappens(let missingPages): "nothing happens any more and \(missingPages) pages are missing"
        case .lastsTooLong(let missingPages): "the session lasts longer than anything explains; \(missingPages) pages are missing"
        case .staleLinkTaken(let number):
            "the source took connection \(number), which the destination had given up, in place of the one it has"
        case .countsDisagree(let text): "the counts disagree: \(text)"
        case .engine(let violation): "\(violation)"
        case .frame(let error): "\(error)"
        case .unexpectedFrame(let kind): "a \(kind) frame came where none may"
        }
    }
}

/// A simulated session that broke an invariant, and the command that shows it again.
public struct SimulationFailure: Error, Sendable, Hashable {
    public let seed: UInt64
    public let bug: SeededBug?
    public let nanoseconds: Int
    public let violation: InvariantViolation

    /// The command that runs this session again and prints its events.
    public var command: String {
        "pageferry simulate --seed \(seed)" + (bug.map { " --bug \($0.rawValue)" } ?? "") + " --trace"
    }
}

extension SimulationFailure: CustomStringConvertible {
    public var description: String {
        "seed \(seed) at \(nanoseconds) virtual ns: \(violation); see it again with: \(command)"
    }
}
