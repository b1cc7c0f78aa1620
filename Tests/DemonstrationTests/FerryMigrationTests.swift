import Foundation
import TestSupport
import Testing

@testable import Demonstration

private let guestDirectory = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().appending(path: "perf/guest/out").path

private let builtDirectory = URL(filePath: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? "/")
    .deletingLastPathComponent().path

/// Whether a guest can be moved here; prints what is missing.
private let canMigrate: Bool = {
    let needed =
        ["kernel", "initramfs", "disk"].map { "\(guestDirectory)/\($0)" }
        + ["\(builtDirectory)/pageferry", "\(builtDirectory)/libpageferry-preload.so", "/usr/bin/qemu-system-x86_64"]
    for path in needed where !FileManager.default.fileExists(atPath: path) {
        print("skipped: there is no \(path); run perf/guest/make-guest, build everything, and install QEMU")
        return false
    }
    return true
}()

/// The demonstration itself, once: a real guest under load, moved while it works.
@Suite(.leavesNothing, .serialized, .enabled(if: canMigrate)) struct FerryMigrationTests {
    @Test func theGuestIsAsItWas() throws {
        let image = try GuestImage(directory: guestDirectory)
        let report = try FerryMigration(image: image, executablePath: "\(builtDirectory)/pageferry") { _ in }.run()
        #expect(report.isRight, "\(report.guest.faults)")
        #expect(report.faults > 0 && report.lastPageMilliseconds > 0)
        #expect(report.guest.gapMilliseconds > 0)
    }
}

@Suite(.leavesNothing) struct GuestImageTests {
    @Test func missingFilesAreNamed() throws {
        do throws(DemonstrationError) {
            _ = try GuestImage(directory: "/nonexistent")
            Issue.record("an image without files")
        } catch {
            #expect(error.description.contains("/nonexistent/kernel") && error.description.contains("make-guest"))
        }
    }
}
