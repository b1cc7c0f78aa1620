import Glibc

extension QemuCommandLine {
    /// What the preload library finds in the environment of this QEMU (Sources/PreloadShim/include/PreloadShim.h), beside what is there.
    ///
    /// - Parameters:
    ///   - preloadLibrary: the path of libpageferry-preload.so.
    ///   - handoffPath: the socket on which the memory is awaited.
    ///   - userfaultDevice: a descriptor of /dev/userfaultfd that QEMU inherits; nil for none.
    public func preloadEnvironment(
        preloadLibrary: String, handoffPath: String, userfaultDevice: Int32?
    ) throws(QemuError) -> [String: String] {
        // Both are separators to the dynamic linker, which would go on without the library, on memory of zeros.
        // SAFETY: the path is terminated and lives for the call.
        guard !preloadLibrary.contains(where: { $0 == ":" || $0 == " " }), unsafe access(preloadLibrary, R_OK) == 0 else {
            throw .unusablePreload(path: preloadLibrary)
        }
        var added = [
            "LD_PRELOAD": [preloadLibrary, Environment.current["LD_PRELOAD"]].compactMap { $0 }.joined(separator: ":"),
            "PAGEFERRY_HANDOFF": handoffPath, "PAGEFERRY_RAM": memoryPatterns.joined(separator: ":"),
            "PAGEFERRY_RAM_COUNT": "\(memoryPatterns.count)",
        ]
        if let userfaultDevice { added["PAGEFERRY_USERFAULTFD_DEVICE"] = "\(userfaultDevice)" }
        return added
    }
}
