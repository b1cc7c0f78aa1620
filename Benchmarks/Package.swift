// swift-tools-version: 6.2
import PackageDescription

// A package of its own, so that those who use the library never build what only its benchmarks need.
let package = Package(
    name: "pageferry-benchmarks",
    dependencies: [
        .package(name: "pageferry", path: ".."),
        .package(url: "https://github.com/ordo-one/benchmark", from: "1.38.0", traits: []),
    ],
    targets: [
        .executableTarget(
            name: "Engine",
            dependencies: [
                .product(name: "PageEngine", package: "pageferry"),
                .product(name: "Benchmark", package: "benchmark"),
            ],
            path: "Benchmarks/Engine",
            plugins: [.plugin(name: "BenchmarkPlugin", package: "benchmark")]
        )
    ],
    swiftLanguageModes: [.v6]
)
