import ProcessMemory

/// What the kernel says of a process's mappings, in which the process has written its files' names.
enum ProcessMapsTarget {
    static func run(_ input: [UInt8]) {
        let text = String(decoding: input, as: UTF8.self)
        do throws(ProcessMemoryError) {
            let mappings = try MemoryMapping.parse(text)
            require(mappings.count <= text.utf8.split(separator: 10).count, "a mapping has a line of its own")
            for mapping in mappings {
                require(mapping.addresses.lowerBound & 0xFFF == 0 && mapping.addresses.upperBound & 0xFFF == 0, "mappings are whole pages")
                require(!mapping.name.contains("\n"), "a name is part of one line")
            }
            for (one, next) in zip(mappings, mappings.dropFirst()) {
                require(one.addresses.upperBound <= next.addresses.lowerBound, "mappings do not overlap")
            }
        } catch {
            require(!error.description.isEmpty && !error.description.contains("\n"), "a refusal is one line")
        }
    }

    static var seeds: [[UInt8]] { [Array(maps.utf8)] }

    static let maps = """
        5581a0000000-5581a0021000 rw-p 00000000 00:00 0                          [heap]
        Size:                132 kB
        VmFlags: rd wr mr mw me ac sd
        7f0c80000000-7f0c80100000 rw-s 00001000 00:01 2051                       /memfd:a name with spaces (deleted)
        VmFlags: rd wr sh mr mw me ms um
        7ffd0a1f0000-7ffd0a1f2000 r-xp 00000000 00:00 0                          [vdso]
        VmFlags: rd ex mr mw me de io pf

        """
}
