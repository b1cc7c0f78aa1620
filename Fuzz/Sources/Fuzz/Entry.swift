import Foundation

/// What libFuzzer calls: once at the start, then with every input. `FUZZ_TARGET` names the decoder under test.

nonisolated(unsafe) private var target = Target.canary

@_cdecl("LLVMFuzzerInitialize")
public func initialize(_ count: UnsafeMutableRawPointer, _ arguments: UnsafeMutableRawPointer) -> CInt {
    let environment = ProcessInfo.processInfo.environment
    if environment["FUZZ_LIST"] != nil {
        print(Target.allCases.map(\.rawValue).filter { $0 != Target.canary.rawValue }.joined(separator: "\n"))
        exit(0)
    }
    guard let name = environment["FUZZ_TARGET"], let chosen = Target(rawValue: name) else {
        print("FUZZ_TARGET names no target; one of: \(Target.allCases.map(\.rawValue).joined(separator: " "))")
        exit(64)
    }
    target = chosen
    // Where a corpus begins: what the encoders write.
    if let folder = environment["FUZZ_SEEDS"] {
        for (number, seed) in chosen.seeds.enumerated() {
            guard FileManager.default.createFile(atPath: "\(folder)/seed-\(number)", contents: Data(seed)) else {
                print("cannot write into '\(folder)'; make it first")
                exit(73)
            }
        }
        exit(0)
    }
    return 0
}

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    target.run(bytes.map { [UInt8](UnsafeBufferPointer(start: $0, count: count)) } ?? [])
    return 0
}

/// A property that must hold whatever the input is; the fuzzer keeps the input that breaks it.
func require(_ condition: Bool, _ property: @autoclosure () -> String) {
    guard condition else { fatalError("broken property: \(property())") }
}
