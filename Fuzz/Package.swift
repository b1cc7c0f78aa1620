// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that plain builds neither instrument anything nor know of the fuzzer. scripts/fuzz builds and runs it.
let package = Package(
    name: "pageferry-fuzz",
    dependencies: [
        .package(name: "pageferry", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    ],
    targets: [
        // Arguments/ links to the sources of the command itself, which no package can import.
        .executableTarget(
            name: "Fuzz",
            dependencies: [
                .product(name: "PageEngine", package: "pageferry"),
                .product(name: "PageFerry", package: "pageferry"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: [.treatAllWarnings(as: .error)])
    ],
    swiftLanguageModes: [.v6]
)
