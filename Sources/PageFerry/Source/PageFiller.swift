import Glibc
import HostMemory
import PageCore
import Userfault

/// Fills memory of this process at the touch of whoever serves it, on a thread of its own, which ends with the last reference.
final class PageFiller: Sendable {
    typealias Fill = @Sendable (_ pages: PageRange, _ bytes: inout MutableRawSpan) -> Void

    /// Where pages are made, before they are put in their place.
    fileprivate final class Slab: Sendable {
        let memory: MappedMemory

        init(_ lengthBytes: Int) throws(SessionError) {
            do throws(HostMemoryError) {
                memory = try MappedMemory(anonymousBytes: lengthBytes)
            } catch {
                throw .memory("memory for pages to be made: \(error.description)")
            }
        }
    }

    private let stop = Mailbox<Bool>()

    init(_ regions: DestinationRegions, _ fill: @escaping Fill) throws(SessionError) {
        let slab = try Slab(regions.layout.regions.reduce(FillingLoop.blockBytes) { max($0, $1.pageSize.bytes) })
        let stop = stop
        _ = DedicatedThread(name: "page-source") {
            var loop = FillingLoop(regions: regions, fill: fill, slab: slab, stop: stop)
            loop.run()
        }
    }

    deinit { stop.post(true) }
}

/// The thread of a filler.
private struct FillingLoop: ~Copyable {
    /// Made around a page that is wanted.
    static let blockBytes = 64 << 10
    /// How often to look whether there is memory, once there was none.
    private static let retryMilliseconds: Int32 = 10

    private let regions: DestinationRegions
    private let fill: PageFiller.Fill
    private let slab: PageFiller.Slab
    private let stop: Mailbox<Bool>
    /// Session pages that are there.
    private var made: PageBitmap
    private var events = UserfaultEventBatch()

    init(regions: DestinationRegions, fill: @escaping PageFiller.Fill, slab: PageFiller.Slab, stop: Mailbox<Bool>) {
        self.regions = regions
        self.fill = fill
        self.slab = slab
        self.stop = stop
        made = PageBitmap(pageCount: regions.layout.totalPages)
    }

    /// Until the filler's end.
    mutating func run() {
        var entries = [pollfd(fd: stop.descriptor, events: Int16(POLLIN), revents: 0)]
        for number in 0..<regions.userfaultCount {
            entries.append(pollfd(fd: regions.userfaultDescriptor(number), events: Int16(POLLIN), revents: 0))
        }
        while entries[0].revents == 0 {
            // SAFETY: local entries, as many as said, for the duration of the call.
            _ = unsafe poll(&entries, nfds_t(entries.count), -1)
            for number in 0..<regions.userfaultCount where entries[number + 1].revents != 0 { answer(number) }
        }
    }

    private mutating func answer(_ number: Int) {
        // What cannot be read now is told of again.
        guard (try? regions.readEvents(number, into: &events)) == true else { return }
        for index in 0..<events.count {
            guard case .pageFault(let address, _) = events[index], let (region, page) = regions.locate(address) else { continue }
            make(region, page)
        }
    }

    /// Makes what is missing of a page's block; a page that is there may have a thread that has not noticed.
    private mutating func make(_ region: RegionIndex, _ page: PageIndex) {
        let layout = regions.layout
        let whole = layout.wholeRange(region)
        let most = max(1, Self.blockBytes >> layout.pageShift(region))
        let first = page / most * most
        let block = layout.sessionPages(PageRange(region: region, first: first, count: min(most, whole.count - first)))
        if made.contains(layout.sessionPage(region, page)) { place(PageRange(region: region, first: page, count: 1)) }
        var next = block.lowerBound
        while next < block.upperBound, let run = made.firstClearRun(in: next..<block.upperBound, most: most) {
            let pages = layout.range(region, sessionPages: run)
            make(pages, byteCount: layout.byteCount(pages))
            made.insert(run)
            next = run.upperBound
        }
    }

    private func make(_ pages: PageRange, byteCount: Int) {
        slab.memory.withMutableBytes(0..<byteCount) { bytes in
            // SAFETY: the span's own bytes, for the call.
            _ = unsafe bytes.withUnsafeMutableBytes { unsafe $0.initializeMemory(as: UInt8.self, repeating: 0) }
            fill(pages, &bytes)
        }
        while regions.fill(pages, from: slab.memory.address) != nil {
            if stopsWhileWaiting() { return }
        }
        place(pages)
    }

    /// Makes pages visible. The kernel may want memory for that, too: those who wait do so until it has some.
    private func place(_ pages: PageRange) {
        while true {
            switch regions.install(pages) {
            case .installed, .alreadyPresent, .vmmGone, .unregistered: return
            case .partially, .retryAfterEvents, .failed: if stopsWhileWaiting() { return }
            }
        }
    }

    private func stopsWhileWaiting() -> Bool {
        var entry = pollfd(fd: stop.descriptor, events: Int16(POLLIN), revents: 0)
        // SAFETY: one local entry, for the duration of the call.
        return unsafe poll(&entry, 1, Self.retryMilliseconds) > 0
    }
}
