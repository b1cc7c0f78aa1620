import ArgumentParser
import StreamTransport

/// What people write on the command line: sizes, windows, addresses.
enum ArgumentsTarget {
    static func run(_ input: [UInt8]) {
        let text = String(decoding: input, as: UTF8.self)
        if let size = SizeArgument(argument: text) {
            require(size.bytes >= 0, "no size is negative")
            require(SizeArgument(argument: size.defaultValueDescription)?.bytes == size.bytes, "a size reads as it is written")
        }
        if let window = WindowArgument(argument: text) {
            require(WindowArgument(argument: window.defaultValueDescription)?.policy == window.policy, "a window reads as it is written")
        }
        do throws(StreamError) {
            let address = try StreamAddress(parsing: text)
            guard let same = try? StreamAddress(parsing: address.description) else {
                fatalError("broken property: an address reads as it is written")
            }
            require(same == address, "an address reads as it is written")
        } catch {
            require(!error.description.isEmpty, "a refusal says why")
        }
    }

    static var seeds: [[UInt8]] {
        ["64K", "2m", "1048576", "9G", "adaptive", "[::1]:7700", "unix:/run/x", "host:0"].map { Array($0.utf8) }
    }
}
