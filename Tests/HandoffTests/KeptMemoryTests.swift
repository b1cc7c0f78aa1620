import Glibc
import HostMemory
import PageCore
import TestSupport
import Testing
import Userfault

@testable import Handoff
@testable import NativeHandoff

/// Memory whose descriptors somebody keeps from daemon to daemon.
@Suite(.leavesNothing, .serialized, .enabled(if: userfaultIsPermitted))
struct KeptMemoryTests {
    /// A store, as the service manager's: what is stored twice is kept once.
    final class Store {
        private(set) var descriptors: [String: Int32] = [:]

        func keep(_ descriptor: Int32, _ name: String) { descriptors[name] = fcntl(descriptor, F_DUPFD_CLOEXEC, 3) }

        func take(_ name: String) -> Int32? { descriptors.removeValue(forKey: name) }

        deinit { for descriptor in descriptors.values { close(descriptor) } }
    }

    /// Three regions: two of one file, one with a userfaultfd of its own and one without, and an anonymous one.
    private func withRegions(_ body: (borrowing HandedOverRegions, Store, [KeptRegion]) throws -> Void) throws {
        let length = 4 * 4096
        let file = try MemoryFile.create(name: "kept", lengthBytes: 2 * length)
        let first = try MappedMemory(of: file, lengthBytes: length, access: .readWrite)
        let second = try MappedMemory(of: file, offset: length, lengthBytes: length, access: .readWrite)
        let anonymous = try MappedMemory(anonymousBytes: length)
        let userfault = try UserfaultDescriptor(required: .sharedMemory, optional: [.removeEvents])
        var regions = HandedOverRegions()
        for (number, address) in [first.address, second.address, anonymous.address].enumerated() {
            let isShared = number < 2
            let modes: UserfaultModes = isShared ? [.missing, .minor] : .missing
            try userfault.register(address: address, lengthBytes: length, modes: modes)
            regions.append(
                HandedOverRegion(
                    name: "region \(number)", address: address, lengthBytes: length, pageSize: .fourKiB,
                    fileOffset: isShared ? number * length : 0,
                    modes: modes, userfaultOf: 0, userfault: try userfault.duplicated(), file: isShared ? try file.duplicated() : nil))
        }
        let store = Store()
        let kept = try KeptMemory.keep(regions) { store.keep($0, $1) }
        try body(regions, store, kept)
        withExtendedLifetime(first) {}
        withExtendedLifetime(second) {}
        withExtendedLifetime(anonymous) {}
    }

    @Test func whatIsKeptIsFoundAgain() throws {
        try withRegions { regions, store, kept in
            #expect(store.descriptors.keys.sorted() == ["file-0", "userfault-0"], "each open file once")
            #expect(kept.map(\.fileOf) == [0, 0, 2] && kept.map(\.userfaultOf) == [0, 0, 0])
            let again = try HandedOverRegions(kept: kept) { store.take($0) }
            try #require(again.count == 3)
            #expect(try again.layout() == regions.layout())
            for index in 0..<3 {
                #expect(again[index].address == regions[index].address && again[index].modes == regions[index].modes)
                #expect(again[index].kind == regions[index].kind && again[index].fileOffset == regions[index].fileOffset)
                #expect(again[index].userfaultOf == 0)
            }
            let source = try MappedMemory(anonymousBytes: 4096)
            memset(source.pointer, 0x63, 4096)
            let outcome = again[2].userfault.copy(source: source.address, address: again[2].address, lengthBytes: 4096, pageSize: .fourKiB)
            #expect(outcome == .installed, "it is the same userfaultfd")
        }
    }

    /// What several regions share is kept until the last of them is taken out, in whatever order that happens.
    @Test(arguments: [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]) func regionsAreTakenOut(_ order: [Int]) throws {
        try withRegions { regions, store, kept in
            var kept = kept
            var left = Set(0..<3)
            for number in order {
                for name in KeptMemory.remove(number, from: &kept) { if let descriptor = store.take(name) { close(descriptor) } }
                left.remove(number)
                var expected: [String] = left.isEmpty ? [] : ["userfault-0"]
                if !left.isDisjoint(with: [0, 1]) { expected.insert("file-0", at: 0) }
                #expect(store.descriptors.keys.sorted() == expected)
                let again = try HandedOverRegions(kept: kept) { name in store.descriptors[name].map { fcntl($0, F_DUPFD_CLOEXEC, 3) } }
                #expect((0..<3).filter { !again[$0].isRemoved } == left.sorted())
                #expect(try again.layout() == regions.layout(), "it keeps its place")
                for index in left { #expect(again[index].userfaultOf == RegionIndex(left.min()!)) }
                let twice = try KeptMemory.keep(again) { _, _ in }
                #expect(twice.map { $0.isRemoved == true } == kept.map { $0.isRemoved == true })
            }
        }
    }

    @Test func whatIsMissingOrDamagedIsRefused() throws {
        try withRegions { _, store, kept in
            #expect(throws: HandoffError.self) { _ = try HandedOverRegions(kept: kept) { $0.hasPrefix("file") ? nil : store.take($0) } }
            #expect(throws: HandoffError.self) { _ = try HandedOverRegions(kept: kept) { _ in nil } }
            for damage in [{ $0.userfaultOf = 7 }, { $0.fileOf = -1 }, { $0.address = 0 }, { $0.fileOffset = 3 }]
                as [(inout KeptRegion) -> Void]
            {
                var damaged = kept
                damage(&damaged[0])
                #expect(throws: HandoffError.self) {
                    _ = try HandedOverRegions(kept: damaged) { name in store.descriptors[name].map { fcntl($0, F_DUPFD_CLOEXEC, 3) } }
                }
            }
        }
    }
}
