import HostMemory
import PageCore
import PageEngine

/// A session's view of the source's memory: where pages lie, and which are zero.
struct SourceMemory: ~Copyable, SessionMemory {
    /// A region, and how far this session has come in announcing its holes.
    private final class View {
        let region: SourceImage.Region
        let holes: HoleMap
        /// Reads huge pages without allocating the holes among them; nil for other memory.
        var scanner: ContentScanner?
        /// Every hole has been told: a page that is left holds something.
        var holesAreKnown = false

        init(_ region: SourceImage.Region) throws(HostMemoryError) {
            self.region = region
            holes = region.holes
            holesAreKnown = region.isFilledOnTouch
            guard region.file.isHugetlbfs else {
                scanner = nil
                return
            }
            scanner = try ContentScanner(
                file: region.file, fileOffset: region.fileOffset, pageSize: region.mapping.pageSize)
        }
    }

    private let views: ContiguousArray<View>
    /// Whether looking at a page may mean waiting for it.
    let isFilledOnTouch: Bool

    /// - Parameter image: its holes have been looked for before, while time did not matter.
    init(_ image: SourceImage) throws(SessionError) {
        var views: ContiguousArray<View> = []
        do throws(HostMemoryError) {
            for region in image.regions { views.append(try View(region)) }
        } catch {
            throw .memory(error.description)
        }
        self.views = views
        isFilledOnTouch = image.isFilledOnTouch
    }

    /// The bytes of a range, as they lie in the guest's memory.
    ///
    /// SAFETY: the caller keeps the image, and so the mapping, for as long as it uses the bytes; the range was checked
    /// against the layout by the engine, and is checked against the mapping here.
    @unsafe func lend(_ range: PageRange) -> LentPages {
        let mapping = views[Int(range.region)].region
        let shift = mapping.mapping.pageSize.shift
        precondition(range.end << shift <= mapping.mapping.lengthBytes, "a range lies in its mapping")
        return unsafe LentPages(
            bytes: UnsafeRawBufferPointer(start: mapping.mapping.pointer + (range.first << shift), count: range.count << shift),
            token: LentPages.notCounted)
    }

    func classify(_ range: PageRange, mostScanned: Int) -> ContentRun {
        let view = views[Int(range.region)]
        do throws(HostMemoryError) {
            if view.scanner != nil { return try classifyHugePages(view, range, mostScanned: mostScanned) }
            if !view.holesAreKnown, let hole = try hole(at: range, view) { return hole }
            let mapping = view.region
            let isZero = mapping.mapping.isZero(firstPage: range.first, count: 1)
            var count = 1
            // Before the holes are told the next page may be one, which must not be read.
            let most = view.holesAreKnown ? min(range.count, mostScanned) : 1
            while count < most, mapping.mapping.isZero(firstPage: range.first + count, count: 1) == isZero { count += 1 }
            return ContentRun(isZero ? .zero : .data, count: count)
        } catch {
            // The file does not tell what it holds: then its bytes are sent as they are, which is always right.
            return ContentRun(.data, count: 1)
        }
    }

    /// The hole at the start of a range, or nil when its first page holds something.
    private func hole(at range: PageRange, _ view: View) throws(HostMemoryError) -> ContentRun? {
        let shift = view.region.mapping.pageSize.shift
        let offset = view.region.fileOffset + range.first << shift
        guard let data = try view.region.file.nextData(from: offset) else { return ContentRun(.zero, count: range.count) }
        let pages = (data - offset) >> shift
        return pages > 0 ? ContentRun(.zero, count: min(pages, range.count)) : nil
    }

    private func classifyHugePages(_ view: View, _ range: PageRange, mostScanned: Int) throws(HostMemoryError) -> ContentRun {
        let run = try view.scanner!.nextRun(
            from: range.first, count: range.count, mostScanned: mostScanned, file: view.region.file, memory: view.region.mapping)
        return ContentRun(run.content == .data ? .data : .zero, count: run.count)
    }

    func firstHole(in range: PageRange) -> PageRange? {
        let view = views[Int(range.region)]
        let holes = view.holes.holes
        var number = view.holes.firstHole(endingAfter: range.first)
        // Holes filled since they were found are stepped over; each costs one system call.
        while number < holes.count, holes[number].lowerBound < range.end {
            let candidate = range.clamped(to: holes[number])
            if let run = try? hole(at: candidate, view) {
                return PageRange(region: range.region, first: candidate.first, count: run.count)
            }
            number += 1
        }
        view.holesAreKnown = range.end == view.region.mapping.pageCount
        return nil
    }
}
