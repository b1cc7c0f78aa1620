import Glibc

/// The whole of a file, read until its end: files of /proc give less than was asked for, and have no size.
///
/// - Returns: nil when it cannot be opened.
public func fileContents(_ path: String) -> [UInt8]? {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    return contents(of: file)
}

/// What comes from a descriptor until its end.
func contents(of file: Int32) -> [UInt8] {
    var contents: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = read(file, &piece, piece.count)
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else { return contents }
        contents += piece[..<count]
    }
}

/// The same as text.
public func fileText(_ path: String) -> String? { fileContents(path).map { String(decoding: $0, as: UTF8.self) } }

/// The names in a directory; none when there is no such directory.
public func directoryEntries(_ path: String) -> [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) { field in
            field.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        if name != "." && name != ".." { names.append(name) }
    }
    return names
}
