import CPageFerry
import Glibc
import TestSupport
import Testing

/// What callers may do wrong: each answers with an error and its line, and nothing is left.
@Suite(.leavesNothing, .serialized) struct MisuseTests {
    private func text() -> String {
        var buffer = [CChar](repeating: 1, count: 1024)
        _ = pageferry_error_text(&buffer, buffer.count)
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private func expect(
        _ answer: some BinaryInteger, _ error: pageferry_error, _ words: String, location: SourceLocation = #_sourceLocation
    ) {
        #expect(answer == Int(error.rawValue), "\(text())", sourceLocation: location)
        #expect(text().contains(words), "\(text())", sourceLocation: location)
    }

    private func withSource(_ change: (inout pageferry_source_options, inout pageferry_source_region) -> Void) -> Int64 {
        let memory = memfd_create_for_test()
        defer { close(memory) }
        var region = pageferry_source_region()
        region.memory_descriptor = memory
        region.length_bytes = 4096
        var options = pageferry_source_options()
        options.size = UInt32(MemoryLayout<pageferry_source_options>.size)
        options.region_count = 1
        return "127.0.0.1:0".withCString { listen in
            options.listen = listen
            change(&options, &region)
            return withUnsafePointer(to: &region) { region in
                if options.regions == nil { options.regions = region }
                return pageferry_source_open(&options)
            }
        }
    }

    private func memfd_create_for_test() -> Int32 {
        let path = "/dev/shm/pageferry-library-test-\(getpid())"
        let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        unlink(path)
        ftruncate(descriptor, 8192)
        return descriptor
    }

    @Test func whatIsNoHandleIsRefused() {
        var event = pageferry_event()
        event.size = UInt32(MemoryLayout<pageferry_event>.size)
        for handle in [0, -1, 12345, Int64.max] {
            expect(pageferry_close(handle), PAGEFERRY_ERROR_HANDLE, "no open handle")
            expect(pageferry_end(handle), PAGEFERRY_ERROR_HANDLE, "no open handle")
            expect(pageferry_event_descriptor(handle), PAGEFERRY_ERROR_HANDLE, "no open handle")
            expect(pageferry_next_event(handle, 0, &event), PAGEFERRY_ERROR_HANDLE, "no open handle")
        }
    }

    @Test func optionsThatCannotBeAreRefused() {
        expect(pageferry_source_open(nil), PAGEFERRY_ERROR_ARGUMENT, "NULL")
        expect(pageferry_destination_open(nil), PAGEFERRY_ERROR_ARGUMENT, "NULL")
        expect(withSource { options, _ in options.size = 8 }, PAGEFERRY_ERROR_ARGUMENT, "sizeof")
        expect(withSource { options, _ in options.region_count = 0 }, PAGEFERRY_ERROR_ARGUMENT, "0 regions")
        expect(withSource { options, _ in options.region_count = 100_000 }, PAGEFERRY_ERROR_ARGUMENT, "100000 regions")
        expect(withSource { options, _ in options.listen = nil }, PAGEFERRY_ERROR_ARGUMENT, "listen is NULL")
        expect(withSource { options, _ in options.most_sessions = 5000 }, PAGEFERRY_ERROR_ARGUMENT, "most_sessions")
        expect(withSource { _, region in region.length_bytes = 0 }, PAGEFERRY_ERROR_ARGUMENT, "empty")
        expect(withSource { _, region in region.length_bytes = .max }, PAGEFERRY_ERROR_ARGUMENT, "address space")
        expect(withSource { _, region in region.memory_descriptor = 9999 }, PAGEFERRY_ERROR_ARGUMENT, "no open descriptor")
        expect(withSource { _, region in region.length_bytes = 1 << 20 }, PAGEFERRY_ERROR_MEMORY, "region 0")
    }

    @Test func memoryDoesNotLeaveTheHostUnprotected() {
        let answer = "0.0.0.0:0".withCString { everywhere in withSource { options, _ in options.listen = everywhere } }
        expect(answer, PAGEFERRY_ERROR_TRUST, "in the clear")
        "/nonexistent/key".withCString { path in
            var security = pageferry_security()
            security.pre_shared_key_path = path
            withUnsafePointer(to: &security) { security in
                expect(withSource { options, _ in options.security = security }, PAGEFERRY_ERROR_TRUST, "/nonexistent/key")
            }
            security.insecure = 1
            withUnsafePointer(to: &security) { security in
                expect(withSource { options, _ in options.security = security }, PAGEFERRY_ERROR_ARGUMENT, "opposite")
            }
        }
    }

    @Test func aSourceIsClosedOnce() throws {
        let source = withSource { _, _ in }
        try #require(source > 0, "\(text())")
        var address = [CChar](repeating: 1, count: 8)
        let needed = pageferry_source_address(source, &address, address.count)
        #expect(needed > 12 && address[7] == 0 && address[0] == 49, "cut, and terminated")
        #expect(pageferry_source_address(source, nil, 0) == needed)
        expect(pageferry_destination_recover(source, "unix:/x"), PAGEFERRY_ERROR_HANDLE, "a source")
        var statistics = pageferry_statistics()
        expect(pageferry_read_statistics(source, &statistics), PAGEFERRY_ERROR_ARGUMENT, "sizeof")
        statistics.size = UInt32(MemoryLayout<pageferry_statistics>.size)
        #expect(pageferry_read_statistics(source, &statistics) == 0 && statistics.sessions == 0)
        #expect(pageferry_close(source) == 0)
        expect(pageferry_close(source), PAGEFERRY_ERROR_HANDLE, "closed")
    }

    /// A destination whose memory is no userfaultfd's, and one that nobody answers.
    @Test func aDestinationThatCannotBeIsRefused() {
        let memory = memfd_create_for_test()
        defer { close(memory) }
        var region = pageferry_destination_region()
        region.address = 0x1000_0000
        region.length_bytes = 8192
        region.page_size_bytes = 4096
        region.userfault_descriptor = memory
        region.memory_descriptor = memory
        var options = pageferry_destination_options()
        options.size = UInt32(MemoryLayout<pageferry_destination_options>.size)
        options.region_count = 1
        "unix:/nonexistent/source".withCString { connect in
            withUnsafePointer(to: &region) { region in
                options.regions = region
                expect(pageferry_destination_open(&options), PAGEFERRY_ERROR_ARGUMENT, "connect is NULL")
                options.connect = connect
                expect(pageferry_destination_open(&options), PAGEFERRY_ERROR_MEMORY, "userfaultfd")
                options.window_bytes = 3
                expect(pageferry_destination_open(&options), PAGEFERRY_ERROR_ARGUMENT, "window_bytes")
            }
        }
    }

    @Test func theVersionIsOne() throws {
        let version = String(cString: pageferry_version())
        #expect(version == "\(PAGEFERRY_VERSION_MAJOR).\(PAGEFERRY_VERSION_MINOR).\(PAGEFERRY_VERSION_PATCH)")
        #expect(fileText("\(LibraryFiles.root)/Sources/pageferry/Version.swift")?.contains("\"\(version)\"") == true)
    }
}
