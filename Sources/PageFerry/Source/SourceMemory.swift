import HostMemory
import PageCore
import PageEngine

/// A session's view of the source's memory: where pages lie, and which are zero.
struct SourceMemory: ~Copyable, ContentClassifier {
    /// A region with the extent of its file that this session looked at last.
    private final class View {
        let region: SourceImage.Region
        var scanner: ContentScanner

        init(_ region: SourceImage.Region) throws(HostMemoryError) {
            self.region = region
            scanner = try ContentScanner(
                file: region.file, fileOffset: region.fileOffset, pageSize: region.mapping.pageSize)
        }
    }

    private let views: ContiguousArray<View>

    init(_ image: SourceImage) throws(SessionError) {
        var views: ContiguousArray<View> = []
        do throws(HostMemoryError) {
            for region in image.regions { views.append(try View(region)) }
        } catch {
            throw .memory(error.description)
        }
        self.views = views
    }

    /// The bytes of a range, as they lie in the guest's memory.
    ///
    /// SAFETY: the caller keeps the image, and so the mapping, for as long as it uses the bytes; the range was checked
    /// against the layout by the engine, and is checked against the mapping here.
    @unsafe func bytes(of range: PageRange) -> UnsafeRawBufferPointer {
        let mapping = views[Int(range.region)].region
        let shift = mapping.mapping.pageSize.shift
        precondition(range.end << shift <= mapping.mapping.lengthBytes, "a range lies in its mapping")
        return unsafe UnsafeRawBufferPointer(
            start: mapping.mapping.pointer + (range.first << shift), count: range.count << shift)
    }

    func classify(_ range: PageRange, mostScanned: Int) -> ContentRun {
        let view = views[Int(range.region)]
        do throws(HostMemoryError) {
            let run = try view.scanner.nextRun(
                from: range.first, count: range.count, mostScanned: mostScanned, file: view.region.file,
                memory: view.region.mapping)
            return ContentRun(run.content == .data ? .data : .zero, count: run.count)
        } catch {
            // The file does not tell what it holds: then its bytes are sent as they are, which is always right.
            return ContentRun(.data, count: min(mostScanned, range.count))
        }
    }

    func firstHole(in range: PageRange) -> PageRange? {
        let view = views[Int(range.region)]
        do throws(HostMemoryError) {
            guard let hole = try view.scanner.firstHole(from: range.first, count: range.count, file: view.region.file) else {
                return nil
            }
            return PageRange(region: range.region, first: hole.lowerBound, count: hole.count)
        } catch {
            return nil
        }
    }
}
