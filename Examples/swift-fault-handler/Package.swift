// swift-tools-version: 6.2
import PackageDescription

let package = Package(
    name: "fault-handler",
    // Elsewhere: .package(url: "…", from: "…") of this repository.
    dependencies: [.package(name: "pageferry", path: "../..")],
    targets: [.executableTarget(name: "fault-handler", dependencies: [.product(name: "PageFerry", package: "pageferry")])]
)
