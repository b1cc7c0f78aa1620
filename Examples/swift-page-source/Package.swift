// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "page-source",
    // Elsewhere: .package(url: "…", from: "…") of this repository.
    dependencies: [.package(name: "pageferry", path: "../..")],
    targets: [.executableTarget(name: "page-source", dependencies: [.product(name: "PageFerry", package: "pageferry")])]
)
