import PageCore

extension SourceImage {
    /// Memory whose pages the program makes when somebody wants them, in place of a file's: a page source of its own.
    ///
    /// `fill` is called on one thread of the image's own, with pages of one region and their bytes, all zero: up to 64 KiB, or one
    /// page where pages are larger. Each page is asked for once and kept from then on; what `fill` leaves alone is zero. Until it
    /// returns, the destinations that want any of these pages wait, and no other page of the image is made. What cannot be made must be
    /// waited for, or end the process: there are no bytes that would be right in its place.
    ///
    /// It is served over streams, not over RDMA, which would have all of it made first. The thread ends with the image.
    ///
    /// Complexity: memory is taken for the pages that were made; a bit a page for the rest.
    public convenience init(
        generating layout: RegionLayout, fill: @escaping @Sendable (_ pages: PageRange, _ bytes: inout MutableRawSpan) -> Void
    ) throws(SessionError) {
        let cache = try CachedImage(of: layout)
        self.init(cache.image, filler: try PageFiller(cache.regions, fill))
    }
}
