// swift-tools-version: 6.2
import PackageDescription

/// Settings of every module on or under the page path: memory safety is strict, warnings are errors.
let strict: [SwiftSetting] = [
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// Settings of tests: same language, warnings still errors, unsafe expressions unmarked.
let tests: [SwiftSetting] = [
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
]

let package = Package(
    name: "pageferry",
    products: [
        .library(
            name: "PageFerry",
            targets: [
                "PageFerry", "PageCore", "HostMemory", "Userfault", "StreamTransport", "SecureStream", "NativeHandoff",
                "FirecrackerHandoff", "Handoff",
                "ProcessMemory",
            ]),
        .library(name: "PageEngine", targets: ["PageCore", "PageWire", "PageEngine", "HostMemory"]),
        .executable(name: "pageferry", targets: ["pageferry"]),
        .library(name: "PageFerryLibrary", type: .static, targets: ["PageFerryLibrary"]),
        .library(name: "pageferry-preload", type: .dynamic, targets: ["PreloadShim"]),
        .library(name: "pageferry-fault-probe", type: .dynamic, targets: ["FaultProbe"]),
        .library(name: "pageferry-allocation-probe", type: .dynamic, targets: ["AllocationProbe"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        // Downward only: a target may depend on those above it in this list, never below.
        .target(name: "CShims"),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .target(name: "ServiceManager", dependencies: ["CShims"], swiftSettings: strict),
        .systemLibrary(name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
        .target(name: "Confinement", dependencies: ["CSeccomp"], swiftSettings: strict),
        .target(name: "PageCore", swiftSettings: strict),
        .target(name: "PageWire", dependencies: ["PageCore"], swiftSettings: strict),
        .target(name: "PageEngine", dependencies: ["PageCore", "PageWire"], swiftSettings: strict),
        .target(name: "PageTransport", dependencies: ["PageWire"], swiftSettings: strict),
        .target(name: "HostMemory", dependencies: ["CShims", "PageCore"], swiftSettings: strict),
        .target(name: "Uring", dependencies: ["CShims"], swiftSettings: strict),
        .target(name: "Verbs", dependencies: ["CShims", "PageCore"], swiftSettings: strict),
        .target(name: "Userfault", dependencies: ["CShims", "PageCore"], swiftSettings: strict),
        .target(
            name: "StreamTransport", dependencies: ["CShims", "PageCore", "PageWire", "PageTransport", "Uring"], swiftSettings: strict),
        .target(
            name: "VerbsTransport", dependencies: ["CShims", "PageCore", "PageWire", "PageTransport", "Uring", "Verbs"],
            swiftSettings: strict),
        .target(name: "SecureStream", dependencies: ["COpenSSL"], swiftSettings: strict),
        .target(
            name: "PageFerry",
            dependencies: [
                "CShims", "PageCore", "PageWire", "PageEngine", "PageTransport", "HostMemory", "Uring", "Userfault", "Verbs",
                "StreamTransport",
                "VerbsTransport", "SecureStream", .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: strict
        ),
        .target(
            name: "NativeHandoff", dependencies: ["CShims", "PageCore", "HostMemory", "Userfault", "PageFerry"], swiftSettings: strict),
        .target(name: "FirecrackerHandoff", dependencies: ["CShims", "PageCore", "Userfault", "NativeHandoff"], swiftSettings: strict),
        .target(name: "Handoff", dependencies: ["CShims", "PageCore", "HostMemory", "Userfault"], swiftSettings: strict),
        .target(name: "ProcessMemory", dependencies: ["CShims", "PageCore", "HostMemory", "PageFerry"], swiftSettings: strict),
        // The library for C and everything that speaks C: the header, and what is behind it. `scripts/build-library` links it.
        .target(name: "CPageFerry"),
        // A VMM's side of the hand-off protocol: one header.
        .target(name: "CHandoffClient"),
        .target(
            name: "PageFerryLibrary",
            dependencies: [
                "CPageFerry", "PageCore", "PageEngine", "HostMemory", "Userfault", "StreamTransport", "SecureStream", "PageFerry",
                "NativeHandoff",
            ],
            exclude: ["pageferry.map"], swiftSettings: strict
        ),
        .target(name: "PageSimulation", dependencies: ["PageCore", "PageWire", "PageEngine"], swiftSettings: strict),
        .target(
            name: "Demonstration",
            dependencies: [
                "PageCore", "PageFerry", "NativeHandoff", "Handoff", "HostMemory", "StreamTransport", "Userfault",
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: strict
        ),
        .target(
            name: "Benchmarking",
            dependencies: [
                "CShims", "PageCore", "PageWire", "PageEngine", "PageFerry", "NativeHandoff", "FirecrackerHandoff", "Handoff", "HostMemory",
                "StreamTransport", "Userfault",
                "Verbs", "SecureStream", "PageSimulation", "Demonstration", .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "pageferry",
            dependencies: [
                "PageCore", "PageWire", "PageEngine", "HostMemory", "Uring", "Userfault", "Verbs", "StreamTransport", "PageFerry",
                "SecureStream", "ServiceManager", "Confinement", "NativeHandoff", "FirecrackerHandoff", "Handoff", "ProcessMemory",
                "PageSimulation", "Demonstration",
                "Benchmarking", .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        // Run by Tests/ConfinementTests: a filter has no end.
        .executableTarget(name: "ConfinementProbe", dependencies: ["CSeccomp", "Confinement"], swiftSettings: strict),
        .executableTarget(name: "GuestWorkload", swiftSettings: strict),
        // It is loaded into VMMs: of the Swift runtime, which the package manager links everywhere, it needs nothing.
        .target(
            name: "PreloadShim", dependencies: ["CHandoffClient"],
            linkerSettings: [.unsafeFlags(["-nostartfiles", "-static-stdlib", "-Xclang-linker", "-Wl,--as-needed"])]),
        .target(
            name: "FaultProbe", linkerSettings: [.unsafeFlags(["-nostartfiles", "-static-stdlib", "-Xclang-linker", "-Wl,--as-needed"])]),
        .target(
            name: "AllocationProbe",
            linkerSettings: [.unsafeFlags(["-nostartfiles", "-static-stdlib", "-Xclang-linker", "-Wl,--as-needed"])]),

        // What several test targets share; it links Testing, and no product has it.
        .target(name: "TestSupport", dependencies: ["CShims"], path: "Tests/TestSupport", swiftSettings: tests),
        // A process that behaves as Firecracker does at its hand-off.
        .executableTarget(name: "FirecrackerVMM", path: "Tests/FirecrackerVMM"),
        .testTarget(name: "TestSupportTests", dependencies: ["TestSupport", "HostMemory", "PageFerry"], swiftSettings: tests),
        .testTarget(name: "ServiceManagerTests", dependencies: ["ServiceManager", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "PageCoreTests", dependencies: ["PageCore"], swiftSettings: tests),
        .testTarget(name: "PageWireTests", dependencies: ["PageWire"], swiftSettings: tests),
        .testTarget(name: "PageEngineTests", dependencies: ["PageEngine", "PageSimulation"], swiftSettings: tests),
        .testTarget(name: "HostMemoryTests", dependencies: ["HostMemory", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "UringTests", dependencies: ["Uring", "CShims", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "UserfaultTests", dependencies: ["Userfault", "HostMemory", "CShims", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "StreamTransportTests", dependencies: ["StreamTransport", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "VerbsTests", dependencies: ["Verbs"], swiftSettings: tests),
        .testTarget(name: "VerbsTransportTests", dependencies: ["VerbsTransport", "TestSupport"], swiftSettings: tests),
        .testTarget(
            name: "HandoffTests", dependencies: ["NativeHandoff", "FirecrackerHandoff", "Handoff", "CShims", "TestSupport"],
            swiftSettings: tests),
        .testTarget(
            name: "ProcessMemoryTests", dependencies: ["ProcessMemory", "HostMemory", "PageCore", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "SecureStreamTests", dependencies: ["SecureStream", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "PageSimulationTests", dependencies: ["PageSimulation", "PageEngine", "PageWire"], swiftSettings: tests),
        .testTarget(
            name: "PageFerryTests",
            dependencies: [
                "PageFerry", "Demonstration", "NativeHandoff", "Handoff", "SecureStream", "Verbs", "VerbsTransport", "TestSupport",
            ], swiftSettings: tests),
        .testTarget(name: "DemonstrationTests", dependencies: ["Demonstration", "TestSupport"], swiftSettings: tests),
        .testTarget(
            name: "BenchmarkingTests", dependencies: ["Benchmarking", "PageEngine", "PageSimulation", "TestSupport"], swiftSettings: tests),
        .testTarget(name: "SourceTreeTests", swiftSettings: tests),
        .testTarget(
            name: "LibraryTests",
            dependencies: ["PageFerryLibrary", "CPageFerry", "HostMemory", "PageCore", "Userfault", "Verbs", "pageferry", "TestSupport"],
            exclude: ["Fixtures"], swiftSettings: tests),
        .testTarget(
            name: "CommandTests",
            dependencies: [
                "ConfinementProbe", "FirecrackerVMM", "Demonstration", "NativeHandoff", "Handoff", "HostMemory", "PageFerry",
                "StreamTransport", "Userfault", "Verbs", "TestSupport",
            ], swiftSettings: tests),
    ],
    swiftLanguageModes: [.v6]
)
