import PageCore

/// Which memory of a process makes which region, before any of it is opened.
///
/// Private mappings that lie side by side make one region, shared ones one a run of their file, however often it is mapped.
struct ProcessPlan {
    /// A mapping, what it is, and what of it the process has for itself.
    struct Part {
        var mapping: MemoryMapping
        var kind: MappingKind
        /// Runs of pages, from the mapping's first; of private mappings alone.
        var ownPages: [Range<PageIndex>] = []
        /// Pages behind the end of a private mapping's file: nobody can read them.
        var unreadable: Range<PageIndex>?
        /// Whether its file can be opened, so that several mappings of it can be told to be the same.
        var hasOpenFile = false
    }

    /// What goes into one region.
    struct Region {
        var kind: MappingKind
        /// Of a private region its addresses; of a shared one its file's bytes.
        var extent: Range<UInt64>
        /// The number of the first mapping in it.
        var first: Int
        /// Private: runs of pages that are known to be zero.
        var holes: [Range<PageIndex>] = []
    }

    let parts: [Part]
    private(set) var regions: [Region] = []
    /// For each mapping its region and where it begins there, in bytes.
    private(set) var places: [(region: Int, offset: UInt64)?]

    init(_ parts: [Part]) {
        self.parts = parts
        places = Array(repeating: nil, count: parts.count)
        for number in parts.indices { addPrivate(number) }
        addShared()
    }

    private mutating func addPrivate(_ number: Int) {
        let part = parts[number]
        // Nothing of it has been touched: fresh memory is the same.
        guard part.kind == .ownMemory, !part.mapping.beginsAsZeros || !part.ownPages.isEmpty else { return }
        let addresses = part.mapping.addresses
        let extent = UInt64(addresses.lowerBound)..<UInt64(addresses.upperBound)
        if let last = regions.last, last.extent.upperBound == extent.lowerBound {
            regions[regions.count - 1].extent = last.extent.lowerBound..<extent.upperBound
        } else {
            regions.append(Region(kind: .ownMemory, extent: extent, first: number))
        }
        let offset = extent.lowerBound - regions[regions.count - 1].extent.lowerBound
        places[number] = (regions.count - 1, offset)
        let firstPage = Int(offset >> 12)
        for hole in Self.holes(of: part) { regions[regions.count - 1].addHole(hole.lowerBound + firstPage..<hole.upperBound + firstPage) }
    }

    /// What of a private mapping reads as zero: what is missing of memory that begins as zeros, or lies behind the end of a file.
    private static func holes(of part: Part) -> [Range<PageIndex>] {
        guard part.mapping.beginsAsZeros else { return part.unreadable.map { [$0] } ?? [] }
        var holes: [Range<PageIndex>] = []
        var page = 0
        for run in part.ownPages {
            if run.lowerBound > page { holes.append(page..<run.lowerBound) }
            page = run.upperBound
        }
        let count = part.mapping.addresses.count >> 12
        if page < count { holes.append(page..<count) }
        return holes
    }

    private mutating func addShared() {
        let shared = parts.indices.filter { parts[$0].kind == .sharedMemory }.sorted { first, second in
            let (a, b) = (parts[first].mapping, parts[second].mapping)
            return (a.file.device, a.file.inode, a.fileOffset, a.addresses.lowerBound)
                < (b.file.device, b.file.inode, b.fileOffset, b.addresses.lowerBound)
        }
        var previous: Int?
        for number in shared {
            let mapping = parts[number].mapping
            let extent = mapping.fileOffset..<mapping.fileOffset + UInt64(mapping.addresses.count)
            let last = regions.last?.extent
            if let previous, let last, parts[number].hasOpenFile, parts[previous].mapping.file == mapping.file,
                extent.lowerBound <= last.upperBound
            {
                regions[regions.count - 1].extent = last.lowerBound..<max(last.upperBound, extent.upperBound)
            } else {
                regions.append(Region(kind: .sharedMemory, extent: extent, first: number))
            }
            places[number] = (regions.count - 1, extent.lowerBound - regions[regions.count - 1].extent.lowerBound)
            previous = number
        }
    }
}

extension ProcessPlan.Region {
    /// Holes of neighbouring mappings are one.
    fileprivate mutating func addHole(_ hole: Range<PageIndex>) {
        if let last = holes.last, last.upperBound == hole.lowerBound {
            holes[holes.count - 1] = last.lowerBound..<hole.upperBound
        } else {
            holes.append(hole)
        }
    }

    /// A name for people, as it stands in the region table.
    var name: String {
        "\(kind.rawValue) \(String(extent.lowerBound, radix: 16))-\(String(extent.upperBound, radix: 16))"
    }
}

extension ProcessPlan {
    /// The layout as `pageferry source --layout` writes it (Documentation/Processes.md).
    var text: String {
        var text = "pageferry-process-layout 1\n"
        for (number, region) in regions.enumerated() {
            text += "region \(number) \(region.kind.rawValue) \(String(region.extent.count, radix: 16))\n"
        }
        for (part, place) in zip(parts, places) {
            let mapping = part.mapping
            let origin = place.map { "\($0.region) \(String($0.offset, radix: 16))" } ?? "- 0"
            let line =
                "map \(mapping.addresses.hexadecimal) \(mapping.permissions.letters) \(part.kind.rawValue) \(origin) \(String(mapping.fileOffset, radix: 16)) \(mapping.name)"
            text += (mapping.name.isEmpty ? String(line.dropLast()) : line) + "\n"
        }
        return text
    }
}
