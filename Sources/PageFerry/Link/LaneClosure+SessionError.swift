import PageTransport
import Verbs

extension SessionError {
    /// The end of a lane, as the end of a session.
    init(closure: LaneClosure, lane: LaneIndex) {
        let name = lane == .urgent ? "the urgent lane" : "bulk lane \(lane.rawValue)"
        switch closure {
        case .endOfStream: self = .linkLost("the peer closed \(name)")
        case .truncated: self = .linkLost("\(name) ended inside a frame")
        case .failed(let errno): self = .linkLost("\(name): \(SystemError.text(errno))")
        case .failedWork(let code): self = .linkLost("\(name): \(WorkStatus(code: code))")
        case .refused(let error): self = .damagedFrame(error)
        }
    }
}
