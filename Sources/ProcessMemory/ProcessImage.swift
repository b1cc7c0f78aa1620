import Glibc
import HostMemory
import PageCore
import PageFerry

/// The memory of a stopped process, served as it is asked for: nothing of it is copied ahead, and nothing is written to it.
///
/// Private memory is read through /proc/PID/mem, which reaches what is protected from the process itself too, shared memory through its
/// file; both are opened here, so that later on no permission is needed, and no other process that gets the number is read. After each
/// read the process must be found not to have run (`StoppedProcess`), or the session ends.
public final class ProcessImage: PageSource {
    /// Where a region's bytes are read.
    private struct Place {
        /// The process's memory, or a file; owned.
        let descriptor: Int32
        let isFile: Bool
        /// Of the region's first byte.
        let offset: UInt64
        let holes: HoleMap
    }

    public let layout: RegionLayout
    /// What lies where in the process: the text for whoever rebuilds its mappings.
    public let layoutText: String
    private let stopped: StoppedProcess
    private let memory: ProcessFile
    private let places: ContiguousArray<Place>

    /// Finds the memory of a process, all of whose threads are stopped. O(its memory), and nothing is read of it.
    public init(process: Int32) throws(ProcessMemoryError) {
        guard process > 0 else { throw .noProcess(process) }
        let stopped = try StoppedProcess(process)
        memory = try ProcessFile(process, "task/\(stopped.thread)/mem")
        let survey = ProcessSurvey(stopped, memory: memory.descriptor)
        let plan = ProcessPlan(try survey.parts())
        guard !plan.regions.isEmpty else { throw .nothingToServe(process) }
        guard plan.regions.count <= RegionLayout.mostRegions else { throw .tooManyRegions(process, count: plan.regions.count) }
        var places: ContiguousArray<Place> = []
        do throws(ProcessMemoryError) {
            layout = try Self.layout(plan)
            for region in plan.regions {
                places.append(try Self.place(region, plan.parts[region.first], survey, memory.descriptor))
            }
            // All that was opened is of one process, and as it was when it stopped.
            try stopped.verify()
        } catch {
            Self.close(places)
            throw error
        }
        self.places = places
        self.stopped = stopped
        layoutText = plan.text
    }

    deinit { Self.close(places) }

    private static func close(_ places: ContiguousArray<Place>) {
        for place in places where place.isFile { Glibc.close(place.descriptor) }
    }

    private static func layout(_ plan: ProcessPlan) throws(ProcessMemoryError) -> RegionLayout {
        do throws(RegionLayoutError) {
            var regions: [RegionDescription] = []
            for region in plan.regions {
                regions.append(try RegionDescription(name: region.name, lengthBytes: region.extent.count, pageSize: .fourKiB))
            }
            return try RegionLayout(regions)
        } catch {
            throw .memory(error.description)
        }
    }

    private static func place(
        _ region: ProcessPlan.Region, _ part: ProcessPlan.Part, _ survey: borrowing ProcessSurvey, _ memory: Int32
    ) throws(ProcessMemoryError) -> Place {
        guard region.kind == .sharedMemory, let file = survey.openFile(of: part.mapping) else {
            let address = region.kind == .sharedMemory ? UInt64(part.mapping.addresses.lowerBound) : region.extent.lowerBound
            return Place(descriptor: memory, isFile: false, offset: address, holes: HoleMap(holes: region.holes))
        }
        do throws(HostMemoryError) {
            let holes = try HoleMap(
                of: file, fileOffset: Int(region.extent.lowerBound), pageCount: region.extent.count >> 12, pageSize: .fourKiB)
            return Place(descriptor: file.release(), isFile: true, offset: region.extent.lowerBound, holes: holes)
        } catch {
            throw .memory("shared memory '\(part.mapping.name)' of process \(survey.process): \(error.description)")
        }
    }

    // MARK: Serving

    public func knownZeros(in range: PageRange) -> PageRange? {
        guard let hole = places[Int(range.region)].holes.firstHole(in: range.first..<range.end) else { return nil }
        return PageRange(region: range.region, first: hole.lowerBound, count: hole.count)
    }

    public func read(_ range: PageRange, into bytes: inout MutableRawSpan) throws(SessionError) {
        do throws(ProcessMemoryError) {
            try read(at: UInt64(range.first) << 12, of: Int(range.region), into: &bytes)
            try stopped.verify()
        } catch {
            throw .memoryLost(error.description)
        }
    }

    public func verify() throws(SessionError) {
        do throws(ProcessMemoryError) { try stopped.verify() } catch { throw .memoryLost(error.description) }
    }

    /// What tells this stop of the process from any other.
    public struct Standing: Sendable, Hashable, Codable {
        let process: Int32
        let counts: [Int32: StoppedProcess.Count]
    }

    public var standing: Standing { Standing(process: stopped.process, counts: stopped.counts) }

    /// Throws when the process has run, or ended.
    public func verifyStopped() throws(ProcessMemoryError) { try stopped.verify() }

    private func read(at offset: UInt64, of region: Int, into bytes: inout MutableRawSpan) throws(ProcessMemoryError) {
        let start = places[region].offset + offset
        // SAFETY: the span is writable for its length, for the duration of the calls.
        let (done, got) = unsafe bytes.withUnsafeMutableBytes { buffer in
            var done = 0
            while done < buffer.count {
                let got = unsafe readAt(
                    places[region].descriptor, buffer.baseAddress! + done, buffer.count - done, offset: start + UInt64(done))
                if got <= 0 { return (done, got) }
                done += got
            }
            return (done, 1)
        }
        if got > 0 { return }
        if got == 0, places[region].isFile {
            // Behind the end of a file there is nothing, and the process could not touch it either.
            for index in done..<bytes.byteCount { bytes.storeBytes(of: 0, toByteOffset: index, as: UInt8.self) }
        } else if got == 0 || got == -Int(ESRCH) {
            throw .ended(stopped.process)
        } else {
            throw .unreadable(stopped.process, address: UInt(start) + UInt(done), code: Int32(-got))
        }
    }
}
