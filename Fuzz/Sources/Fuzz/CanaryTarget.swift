/// A decoder with a seeded bug, of the kind the others must not have: a list of records, each a tag and a length, in which one
/// kind of record is believed about its length.
enum CanaryTarget {
    static func run(_ input: [UInt8]) {
        var offset = 0
        var total = 0
        while input.count - offset >= 2 {
            let tag = input[offset]
            let length = Int(input[offset + 1])
            offset += 2
            // The bug: records with tag 0xC5 are not held against what is left.
            guard tag == 0xC5 || length <= input.count - offset else { return }
            for index in 0..<length { total &+= Int(input[offset + index]) }
            offset += length
        }
        require(total >= 0, "a sum of bytes is not negative")
    }
}
